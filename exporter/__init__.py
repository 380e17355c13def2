"""Saliport: a network's prediction and its saliency map, compiled into one artifact.

The names below are the public API; each is imported when it is first used, so that running an ONNX artifact does not
import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.artifact import Artifact
    from exporter.audit import recheck, verify
    from exporter.errors import (
        ArtifactError,
        SaliportError,
        UnsupportedModel,
        UnsupportedOp,
        UsageError,
        VerificationFailed,
    )
    from exporter.pipeline import build, export
    from exporter.proof import Certificate
    from exporter.runtime import PREDICTED, Explanation, Session, load
    from exporter.signature import Input

__version__ = "0.1.0"
"""Written here, for a checkout that is not installed has no metadata."""

__all__ = [
    "PREDICTED",
    "Artifact",
    "ArtifactError",
    "Certificate",
    "Explanation",
    "Input",
    "SaliportError",
    "Session",
    "UnsupportedModel",
    "UnsupportedOp",
    "UsageError",
    "VerificationFailed",
    "build",
    "export",
    "load",
    "recheck",
    "verify",
]

_HOMES = {
    "artifact": ("Artifact",),
    "audit": ("recheck", "verify"),
    "errors": (
        "ArtifactError",
        "SaliportError",
        "UnsupportedModel",
        "UnsupportedOp",
        "UsageError",
        "VerificationFailed",
    ),
    "pipeline": ("build", "export"),
    "proof": ("Certificate",),
    "runtime": ("PREDICTED", "Explanation", "Session", "load"),
    "signature": ("Input",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"exporter.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
