"""Whether machine code of one machine runs on another: what code needs, and what a device lacks."""

from __future__ import annotations

from typing import cast

from niello.runtime.target import CodeDevice, CompileOptions, Device


def needs_of(device: Device, options: CompileOptions) -> tuple[str, ...]:
    """What a machine must have to run code that this device compiles with these options.

    Words of the back end, such as x86_64-linux, avx2 or sm_90; nothing for a device whose code
    runs wherever the device does.
    """
    if not hasattr(device, "code_needs"):
        return ()
    return cast(CodeDevice, device).code_needs(options)


def lacking(device: Device, needs: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the needs of some code this device does not meet."""
    if not needs:
        return ()
    if not hasattr(device, "lacks"):
        return needs
    return cast(CodeDevice, device).lacks(needs)
