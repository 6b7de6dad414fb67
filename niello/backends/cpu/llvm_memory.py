"""Loads, stores, prefetches and lane operations of the LLVM text emitter."""

from __future__ import annotations

from collections.abc import Sequence

from niello.backends.cpu.llvm_build import Instructions
from niello.backends.cpu.llvm_types import (
    Operand,
    Value,
    constant,
    element_type,
    lanes,
    mangle,
    vector,
    vector_constant,
    with_element,
)


class Memory(Instructions):
    """Adds memory and vector instructions."""

    # --- memory

    def gep(self, type: str, pointer: Value, index: Operand, *, inbounds: bool = True) -> Value:
        """Address of element ``index`` of an array of ``type`` (of several: vector)."""
        index = self.as_value(index)
        if index.const == 0:
            return pointer
        word = "inbounds " if inbounds else ""
        result = vector("ptr", lanes(index.type))
        return self._value(result, f"getelementptr {word}{type}, {pointer}, {index}")

    def load(self, type: str, pointer: Value, *, align: int = 0, invariant: bool = False) -> Value:
        """Load a ``type``; ``align`` in bytes, natural if 0; ``invariant``: it never changes."""
        tail = f", align {align}" if align else ""
        if invariant:
            tail += f", !invariant.load !{self.module.metadata('!{}')}"
        return self._value(type, f"load {type}, {pointer}{tail}")

    def store(
        self, value: Value, pointer: Value, *, align: int = 0, nontemporal: bool = False
    ) -> None:
        """Store; ``nontemporal`` bypasses the caches (aligned to the whole vector only)."""
        tail = f", align {align}" if align else ""
        if nontemporal:
            tail += f", !nontemporal !{self.module.metadata('!{i32 1}')}"
        self.line(f"store {value}, {pointer}{tail}")

    def masked_load(
        self, type: str, pointer: Value, mask: Value, *, align: int, other: Value | None = None
    ) -> Value:
        """Load the lanes where ``mask`` holds; others are ``other`` (zero) and touch no memory."""
        name = f"llvm.masked.load.{mangle(type)}.p0"
        other = other or constant(0, type)
        self.module.declare(name, type, ["ptr", "i32 immarg", mask.type, type])
        return self._value(type, f"call {type} @{name}({pointer}, i32 {align}, {mask}, {other})")

    def masked_store(self, value: Value, pointer: Value, mask: Value, *, align: int) -> None:
        """Store the lanes where ``mask`` holds."""
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.module.declare(name, "void", [value.type, "ptr", "i32 immarg", mask.type])
        self.line(f"call void @{name}({value}, {pointer}, i32 {align}, {mask})")

    def gather(self, type: str, pointers: Value, *, align: int, mask: Value | None = None) -> Value:
        """Load one element per lane from a vector of pointers; lanes without mask are zero."""
        mask = mask or constant(1, with_element(type, "i1"))
        name = f"llvm.masked.gather.{mangle(type)}.{mangle(pointers.type)}"
        other = constant(0, type)
        self.module.declare(name, type, [pointers.type, "i32 immarg", mask.type, type])
        return self._value(type, f"call {type} @{name}({pointers}, i32 {align}, {mask}, {other})")

    def scatter(
        self, value: Value, pointers: Value, *, align: int, mask: Value | None = None
    ) -> None:
        """Store one element per lane to a vector of pointers, lowest lane first."""
        mask = mask or constant(1, with_element(value.type, "i1"))
        name = f"llvm.masked.scatter.{mangle(value.type)}.{mangle(pointers.type)}"
        self.module.declare(name, "void", [value.type, pointers.type, "i32 immarg", mask.type])
        self.line(f"call void @{name}({value}, {pointers}, i32 {align}, {mask})")

    def prefetch(self, pointer: Value, *, write: bool = False, locality: int = 3) -> None:
        """Ask for a cache line early; ``locality`` 3 keeps it in all levels, 0 none."""
        self.module.declare(
            "llvm.prefetch.p0", "void", ["ptr", "i32 immarg", "i32 immarg", "i32 immarg"]
        )
        self.line(
            f"call void @llvm.prefetch.p0({pointer}, i32 {int(write)}, i32 {locality}, i32 1)"
        )

    # --- vectors

    def splat(self, value: Operand, type: str) -> Value:
        """Value of ``type`` (vector or scalar) with the scalar ``value`` in every lane."""
        if not isinstance(value, Value):
            return constant(value, type)
        if type[0] != "<":
            return value
        if value.const is not None:
            return constant(value.const, type)
        if not value.text.startswith("%"):
            return Value(f"splat ({value})", type)
        first = self._value(type, f"insertelement {type} poison, {value}, i64 0")
        mask = f"<{lanes(type)} x i32> zeroinitializer"
        return self._value(type, f"shufflevector {first}, {type} poison, {mask}")

    def insert(self, vector: Value, element: Value, index: Operand) -> Value:
        return self._value(
            vector.type, f"insertelement {vector}, {element}, {self.as_value(index)}"
        )

    def extract(self, vector: Value, index: Operand) -> Value:
        if vector.type[0] != "<":
            return vector
        return self._value(
            element_type(vector.type), f"extractelement {vector}, {self.as_value(index)}"
        )

    def any_lane(self, mask: Value, width: int) -> Value:
        """Whether a mask holds in some lane."""
        if width > 4:
            name = f"llvm.vector.reduce.or.v{width}i1"
            self.module.declare(name, "i1", [mask.type])
            return self._value("i1", f"call i1 @{name}({mask})")
        # LLVM 22 compiles that reduction of two lanes wrongly for AVX-512.
        found = self.extract(mask, 0)
        for lane in range(1, width):
            found = self.or_(found, self.extract(mask, lane))
        return found

    def shuffle(self, a: Value, b: Value | None, indices: Sequence[int]) -> Value:
        """Lanes of ``a`` (0..n-1) and ``b`` (n..2n-1) in this order; -1: undefined lane."""
        mask = ", ".join(f"i32 {i}" if i >= 0 else "i32 poison" for i in indices)
        result = vector(element_type(a.type), len(indices))
        other = b.text if b is not None else "poison"
        if len(indices) == 1:
            return self.extract(a, indices[0])
        return self._value(
            result, f"shufflevector {a}, {a.type} {other}, <{len(indices)} x i32> <{mask}>"
        )

    def iota(self, type: str, start: int = 0) -> Value:
        """Integer vector start, start+1, ... (a scalar type gives the constant ``start``)."""
        if lanes(type) == 1:
            return constant(start, type)
        return vector_constant(range(start, start + lanes(type)), element_type(type))

    def lane_mask(self, count: Value, width: int) -> Value:
        """Mask of ``width`` lanes whose first ``count`` (i64) hold."""
        narrow = self.cast("trunc", self.smin(count, width), "i32")
        wide = vector("i32", width)
        return self.icmp("ult", self.iota(wide), self.splat(self.smax(narrow, 0), wide))
