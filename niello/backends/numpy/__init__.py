"""The reference back end: runs every kernel with NumPy. Trusted, complete and slow."""

from niello.backends.numpy.device import BACKEND

__all__ = ["BACKEND"]
