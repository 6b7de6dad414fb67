"""Measurements of Niello beside its peers: `python -m bench --help`."""
