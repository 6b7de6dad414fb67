"""Operators that ONNX defines by other operators: their bodies, for want of a translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from niello.frontends.onnx.values import EmptyOptional, Value, code_of, code_of_array

if TYPE_CHECKING:
    from niello.frontends.onnx.call import Call


def schema_of(domain: str, name: str, version: int) -> Any:
    """The ONNX schema of an operator at an opset version; None when there is none."""
    import onnx.defs

    try:
        return onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None


def has_expansion(domain: str, name: str, version: int) -> bool:
    """Whether ONNX defines the operator by others."""
    schema = schema_of(domain, name, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def expansion(call: Call) -> Any:
    """The function body that ONNX gives for a node, or None."""
    node = call.node
    schema = schema_of("" if node.domain == "ai.onnx" else node.domain, node.op_type, call.version)
    if schema is None:
        return None
    if schema.has_function:
        body = _from_schema(schema, call.version)
        return _with_defaults(body, schema)
    if not schema.has_context_dependent_function:
        return None
    from onnx import FunctionProto

    types = [_type(v).SerializeToString() for v in call.inputs]
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= call.version]
    raw = schema.get_context_dependent_function_with_opset_version(
        max(versions, default=call.version), node.SerializeToString(), types
    )
    body = FunctionProto()
    body.ParseFromString(raw)
    return _with_defaults(body, schema)


def _from_schema(schema: Any, version: int) -> Any:
    from onnx import FunctionProto

    versions = [v for v in schema.function_opset_versions if v <= version]
    body = FunctionProto()
    if versions:
        body.ParseFromString(schema.get_function_with_opset_version(max(versions)))
    else:
        body.CopyFrom(schema.function_body)
    return body


def _with_defaults(body: Any, schema: Any) -> Any:
    """The body with the schema's defaults for attributes."""
    for attribute in schema.attributes.values():
        if attribute.default_value.name:
            body.attribute_proto.add().CopyFrom(attribute.default_value)
    return body


def _type(value: Value | None) -> Any:
    """The TypeProto of a value; an empty one for an input that is left out."""
    from onnx import TypeProto

    made = TypeProto()
    if value is None or isinstance(value, EmptyOptional):
        return made
    if isinstance(value, list):
        made.sequence_type.elem_type.CopyFrom(_type(value[0] if value else None))
        return made
    if isinstance(value, np.ndarray):
        shape: Any = value.shape
        code = code_of_array(value)
    else:
        tensor: Any = value
        shape, code = tensor.shape, code_of(tensor.dtype)
    made.tensor_type.elem_type = code
    if shape is not None:
        made.tensor_type.shape.SetInParent()
        for size in shape:
            dim = made.tensor_type.shape.dim.add()
            if size is not None:
                dim.dim_value = size
    return made
