"""Emit TorchScript: the explicit module, scripted. Nothing is traced, so sizes stay symbolic."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from exporter.program import Program, to_module


def emit(program: Program, path: Path) -> None:
    """Write a program as a TorchScript file that any libtorch loads without this package.

    Raises:
        OSError: The file cannot be written whole. libtorch's own writer ends the process on a full disk, so the bytes
            go by way of memory.
    """
    with warnings.catch_warnings():
        # The format is frozen, not broken; and the annotations warned of are in fx.GraphModule's constructor.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated")
        warnings.filterwarnings("ignore", message=".*instance-level annotations", category=UserWarning)
        scripted = torch.jit.script(to_module(program).eval())
        path.write_bytes(scripted.save_to_buffer())
