"""Device-independent machinery: what a compiled program is, and how it is played."""
