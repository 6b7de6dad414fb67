"""Level 1 to level 1: each pass reads a computation and builds another."""
