"""Level 2: what one kernel computes, in index notation."""
