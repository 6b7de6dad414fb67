"""From kernels in index notation to loops: what all renderers share."""
