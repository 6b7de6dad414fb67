"""How operations of Niello are written as ONNX nodes. Importing the package registers all."""

from niello.frontends.onnx.writers import elementwise, regions, structure, windows  # noqa: F401
