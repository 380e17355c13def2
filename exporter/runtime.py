"""Load a written file and run it: the one way in which the scripts, the proof and the tests run artifacts.

Torch is imported for TorchScript only; an ONNX artifact runs on numpy and onnxruntime.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.artifact import Artifact
from exporter.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import torch

RUNTIMES = {"onnxruntime": "onnx", "torchscript": "torchscript"}
"""Runtime -> the format that it runs."""

PREDICTED = -1
"""The target that stands for the class which the input is predicted to be."""


Arrays = tuple[NDArray[np.floating], NDArray[np.floating]]
Run = Callable[[NDArray[np.floating], NDArray[np.int64]], Arrays]


class Explanation(NamedTuple):
    """What an artifact returns.

    Attributes:
        logits: ``[N, K]``.
        attribution: The cotangent of each input value for its sample's target, in the image's shape; raw.
    """

    logits: NDArray[np.floating]
    attribution: NDArray[np.floating]


class Session:
    """A loaded model: ``session(image, target) -> Explanation``."""

    def __init__(self, run: Run) -> None:
        """Wrap a runtime's own call; use :func:`open_session` or :func:`exporter.load`."""
        self._run = run

    def __call__(self, image: ArrayLike, target: int | ArrayLike = PREDICTED) -> Explanation:
        """Predict and explain a batch.

        Args:
            image: ``[N, ...]``, in the artifact's dtype.
            target: One class for all samples, or int64 ``[N]``; -1 is the predicted class.

        Raises:
            UsageError: The target's shape is not ``[N]``, or its values are not integers.
            Exception: The runtime refused the input, for example a target outside ``[-1, K)``; the type is its own.
        """
        image = np.ascontiguousarray(image)
        target = np.asarray(target)
        if not np.issubdtype(target.dtype, np.integer):
            raise UsageError(f"target has dtype {target.dtype}; classes are integers")
        target = target.astype(np.int64)
        if target.ndim == 0:
            target = np.full(len(image), target)
        if target.shape != (len(image),):
            raise UsageError(f"target has shape {list(target.shape)}; for this batch it must be [{len(image)}]")
        return Explanation(*self._run(image, target))


def load(folder: str | os.PathLike[str], runtime: str = "onnxruntime", *, threads: int | None = None) -> Session:
    """Load an artifact.

    Args:
        folder: The artifact's folder.
        runtime: ``onnxruntime`` or ``torchscript``.
        threads: See :func:`open_session`.

    Raises:
        ArtifactError: The folder is no artifact, lacks the runtime's file, or the file is not the one proven.
        UsageError: The runtime is unknown.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    return open_session(Artifact.open(folder).file(RUNTIMES[runtime]), runtime, threads=threads)


def open_session(path: Path, runtime: str, *, threads: int | None = None, double: bool = False) -> Session:
    """Load one written file.

    Args:
        path: ``model.onnx`` or ``model.pt``.
        runtime: ``onnxruntime`` or ``torchscript``.
        threads: How many threads onnxruntime uses inside an operator; TorchScript follows torch's own setting.
        double: Convert a TorchScript model to float64 after loading.
    """
    if runtime == "onnxruntime":
        return _onnxruntime(path, threads)
    if runtime == "torchscript":
        return _torchscript(path, double)
    raise UsageError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")


def _onnxruntime(path: Path, threads: int | None) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; do not print them as well
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime {onnxruntime.__version__} does not load {path.name}: {error}") from error

    def run(image: NDArray[np.floating], target: NDArray[np.int64]) -> Arrays:
        logits, attribution = session.run(["logits", "attribution"], {"image": image, "target": target})
        return logits, attribution

    return Session(run)


def _torchscript(path: Path, double: bool) -> Session:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated")
            module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ArtifactError(f"torch {torch.__version__} does not load {path.name}: {error}") from error
    return Session(run_module(module.double() if double else module))


def run_module(module: torch.nn.Module) -> Run:
    """Wrap a module of ``(image, target) -> (logits, attribution)`` on tensors as a call on arrays."""
    import torch

    def run(image: NDArray[np.floating], target: NDArray[np.int64]) -> Arrays:
        with torch.no_grad():
            logits, attribution = module(torch.from_numpy(image), torch.from_numpy(target))
        return logits.numpy(), attribution.numpy()

    return run
