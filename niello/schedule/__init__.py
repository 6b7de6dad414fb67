"""Graph to commands and kernels: stitch, lower, order, alias, place in memory."""
