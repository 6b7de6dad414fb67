"""How operations of Niello are written as ONNX nodes. Importing the package registers all."""

from niello.frontends.onnx.writers import (  # noqa: F401
    elementwise,
    losses,
    rearrangement,
    regions,
    structure,
    windows,
)
