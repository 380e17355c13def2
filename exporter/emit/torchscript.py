"""Emit TorchScript: the explicit module, scripted. Nothing is traced, so sizes stay symbolic."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from exporter.program import Program, to_module


def emit(program: Program, path: Path) -> None:
    """Write a program as a TorchScript file that any libtorch loads without this package."""
    with warnings.catch_warnings():
        # The format is frozen, not broken; and the annotations warned of are in fx.GraphModule's constructor.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated")
        warnings.filterwarnings("ignore", message=".*instance-level annotations", category=UserWarning)
        scripted = torch.jit.script(to_module(program).eval())
        torch.jit.save(scripted, str(path))
