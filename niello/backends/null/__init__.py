"""The skeleton to copy for a new back end. It compiles every program and runs none.

A back end is a folder that exports one `BACKEND` record. To write one:

1. copy this folder and name the device;
2. in `device.py`, state the limits, and render the kernels of a program in `compile`;
3. return what the device runs from `image`, and make the same from it in `load`;
4. fill `play`, set `runs=True`, and run the conformance tests until they pass.
"""

from niello.backends.null.device import BACKEND

__all__ = ["BACKEND"]
