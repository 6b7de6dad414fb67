"""`niello convert`, `run`, `benchmark` and `inspect` on models of any kind Niello reads."""
