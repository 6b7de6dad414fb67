"""Programs for people who work on Niello."""
