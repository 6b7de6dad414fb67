"""`niello demo digits`: train a convolutional network that reads handwritten digits."""
