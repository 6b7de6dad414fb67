"""`niello inspect`: a graph, its kernels and its memory plan, as text or as a picture."""
