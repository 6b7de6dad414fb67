"""Networks that are measured, written for Niello and for its peers with the same weights."""
