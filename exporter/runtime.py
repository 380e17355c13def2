"""Load a written file and run it: the one way in which the scripts, the proof and the tests run artifacts.

Torch is imported for TorchScript only; an ONNX artifact runs on numpy and onnxruntime, and on a GPU needs
onnx beside them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter import cuda
from exporter.artifact import Artifact
from exporter.errors import ArtifactError, UsageError
from exporter.signature import IMAGE, TARGET, Dimension, Input, Signature

if TYPE_CHECKING:
    import torch

RUNTIMES = {"onnxruntime": "onnx", "torchscript": "torchscript"}
"""Runtime -> the format that it runs."""

DEVICES = ("cpu", "cuda")
"""Where a session may run."""

PREDICTED = -1
"""The target that stands for the class which the input is predicted to be."""


Array = NDArray[Any]
Run = Callable[[Sequence[Array], NDArray[np.int64]], Sequence[NDArray[np.floating]]]
"""``(inputs, target) -> (logits, *attributions)``."""


class Explanation(NamedTuple):
    """What an artifact returns.

    Attributes:
        logits: ``[N, K]``.
        attribution: The cotangent of each input value for its sample's target, in the image's shape; raw. Of an
            artifact with several inputs, one by the name of each that has an attribution.
    """

    logits: NDArray[np.floating]
    attribution: NDArray[np.floating] | dict[str, NDArray[np.floating]]


class Session:
    """A loaded model: ``session(image, target) -> Explanation``.

    Attributes:
        inputs: Names of the inputs but for the target, in order.
        attributed: Those of them that have an attribution.
        classes: How many there are, where the runtime does not refuse another target by itself.
        signature: What the inputs must be like, where that is known: else the runtime says what does not fit.
        dimensions: Which values the sizes that may vary have, where that is known.
    """

    def __init__(self, run: Run, inputs: Sequence[str] = (IMAGE,), attributed: Sequence[str] = (IMAGE,)) -> None:
        """Wrap a runtime's own call; use :func:`open_session` or :func:`exporter.load`."""
        self._run = run
        self.inputs = tuple(inputs)
        self.attributed = tuple(attributed)
        self.classes: int | None = None
        self.signature: Signature | None = None
        self.dimensions: Sequence[Dimension] = ()

    def __call__(self, image: ArrayLike | Mapping[str, ArrayLike], target: int | ArrayLike = PREDICTED) -> Explanation:
        """Predict and explain a batch.

        Args:
            image: ``[N, ...]``, in the artifact's dtype; of several inputs, a mapping from each one's name.
            target: One class for all samples, or int64 ``[N]``; -1 is the predicted class.

        Raises:
            UsageError: An input is missing, has no such name or another dtype, shape or batch size; the target's
                shape is not ``[N]``, its values are not integers, or, on a GPU, they are outside ``[-1, K)``.
            Exception: The runtime refused the input, for example a target outside ``[-1, K)``; the type is its own.
        """
        arrays = [np.ascontiguousarray(array) for array in self._in_order(image)]
        if self.signature is not None:
            for given, array in zip(self.signature.inputs, arrays, strict=True):
                _check(given, array, self.signature, self.dimensions)
        target = np.asarray(target)
        if not np.issubdtype(target.dtype, np.integer):
            raise UsageError(f"target has dtype {target.dtype}; classes are integers")
        target = target.astype(np.int64)
        size = len(arrays[0])
        if any(len(array) != size for array in arrays):
            sizes = ", ".join(f"{name} {len(array)}" for name, array in zip(self.inputs, arrays, strict=True))
            raise UsageError(f"the inputs have batches of different sizes: {sizes}")
        if target.ndim == 0:
            target = np.full(size, target)
        if target.shape != (size,):
            raise UsageError(f"target has shape {list(target.shape)}; for this batch it must be [{size}]")
        if self.classes is not None and not ((target >= PREDICTED) & (target < self.classes)).all():
            raise UsageError(f"a target is outside [{PREDICTED}, {self.classes})")
        logits, *attributions = self._run(arrays, target)
        if len(self.inputs) == 1:
            return Explanation(logits, attributions[0])
        return Explanation(logits, dict(zip(self.attributed, attributions, strict=True)))

    def _in_order(self, image: ArrayLike | Mapping[str, ArrayLike]) -> list[ArrayLike]:
        if not isinstance(image, Mapping):
            if len(self.inputs) > 1:
                raise UsageError(f"the artifact takes {', '.join(self.inputs)}; give a mapping from names to arrays")
            return [image]
        if set(image) != set(self.inputs):
            raise UsageError(f"the artifact takes {', '.join(self.inputs)}, not {', '.join(map(str, image))}")
        return [image[name] for name in self.inputs]


def _check(given: Input, array: Array, signature: Signature, dimensions: Sequence[Dimension]) -> None:
    """Refuse an array of another dtype or shape than an input has."""
    if array.dtype != given.dtype:
        raise UsageError(f"{given.name} has dtype {array.dtype}; the artifact takes {given.dtype}")
    varying = signature.dynamic_axes(given)
    fits = array.ndim == len(given.shape) + 1 and all(
        axis in varying or array.shape[axis] == size for axis, size in enumerate(given.shape, start=1)
    )
    if not fits:
        wanted = ", ".join(str(varying.get(axis, size)) for axis, size in enumerate((0, *given.shape)))
        raise UsageError(f"{given.name} has shape {list(array.shape)}; the artifact takes [{wanted}]")
    for dimension in dimensions:
        if not all(dimension.allows(array.shape[axis]) for axis, name in varying.items() if name == dimension.name):
            raise UsageError(f"{given.name} has shape {list(array.shape)}; the artifact takes a {dimension}")


def load(
    folder: str | os.PathLike[str],
    runtime: str = "onnxruntime",
    *,
    threads: int | None = None,
    device: str = "cpu",
) -> Session:
    """Load an artifact.

    Args:
        folder: The artifact's folder.
        runtime: ``onnxruntime`` or ``torchscript``.
        threads: See :func:`open_session`.
        device: See :func:`open_session`.

    Raises:
        ArtifactError: The folder is no artifact, lacks the runtime's file, or the file is not the one proven.
        UsageError: See :func:`open_session`; and for onnxruntime on a GPU a file must be exported for one.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    artifact = Artifact.open(folder)
    path = artifact.file(RUNTIMES[runtime])
    if (runtime, device) == ("onnxruntime", "cuda"):
        cuda.check_optimized_for(artifact.manifest.get("optimize_for"))
    signature = Signature.of_manifest(artifact.manifest)
    classes = artifact.manifest["outputs"][0]["shape"][1]
    session = open_session(path, runtime, signature.inputs, threads=threads, device=device, classes=classes)
    session.signature, session.dimensions = signature, Dimension.of_manifest(artifact.manifest)
    return session


def open_session(
    path: Path,
    runtime: str,
    inputs: Sequence[Input] = (Input(IMAGE, ()),),
    *,
    threads: int | None = None,
    double: bool = False,
    device: str = "cpu",
    classes: int | None = None,
) -> Session:
    """Load one written file.

    Args:
        path: ``model.onnx`` or ``model.pt``.
        runtime: ``onnxruntime`` or ``torchscript``.
        inputs: The artifact's, whose names and order a TorchScript file does not tell; an ONNX file does.
        threads: How many threads onnxruntime uses inside an operator; TorchScript follows torch's own setting.
        double: Convert a TorchScript model to float64 after loading.
        device: Where the model runs: ``cpu``, or ``cuda`` for the first NVIDIA GPU. A session takes and returns numpy
            arrays either way. TF32 is off, which both runtimes have on by default.
        classes: How many there are. A CPU refuses any other target by itself. On a GPU onnxruntime returns a map of
            zeros for one, and libtorch fails for good, so there the session refuses it if it is told.

    Raises:
        ArtifactError: The runtime does not load the file.
        UsageError: The runtime or the device is unknown, the runtime has no such device here or is too old for it, or
            it would run a part of the file elsewhere, sizes apart, or wrongly.
    """
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; there are {', '.join(DEVICES)}")
    if runtime == "onnxruntime":
        session = _onnxruntime(path, threads, device)
    elif runtime == "torchscript":
        session = _torchscript(path, inputs, double, device)
    else:
        raise UsageError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    if device != "cpu":
        session.classes = classes
    return session


def _onnxruntime(path: Path, threads: int | None, device: str) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; do not print them as well
    options.enable_mem_pattern = False  # it takes memory for a second copy of what is live, and saves no time
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cuda":
        session = cuda.open_onnxruntime(path, options)
    else:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ArtifactError(f"onnxruntime {onnxruntime.__version__} does not load {path.name}: {error}") from error
    inputs = [given.name for given in session.get_inputs() if given.name != TARGET]
    attributed = [given.name for given in session.get_inputs() if given.type in _FLOATS]

    def run(arrays: Sequence[Array], target: NDArray[np.int64]) -> Sequence[NDArray[np.floating]]:
        found: Sequence[NDArray[np.floating]] = session.run(
            None, {**dict(zip(inputs, arrays, strict=True)), TARGET: target}
        )
        return found

    return Session(run, inputs, attributed)


_FLOATS = {"tensor(float)", "tensor(double)", "tensor(float16)"}
"""What onnxruntime calls the dtypes of inputs that have an attribution."""


def _torchscript(path: Path, inputs: Sequence[Input], double: bool, device: str) -> Session:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"torch {torch.__version__} finds no CUDA device here")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated")
            module = torch.jit.load(str(path), map_location=device)
    except Exception as error:
        raise ArtifactError(f"torch {torch.__version__} does not load {path.name}: {error}") from error
    return module_session(module.double() if double else module, inputs, device)


def module_session(module: torch.nn.Module, inputs: Sequence[Input], device: str = "cpu") -> Session:
    """Wrap a module of ``(*inputs, target) -> (logits, *attributions)`` on tensors as a session on arrays."""
    import torch

    def run(arrays: Sequence[Array], target: NDArray[np.int64]) -> Sequence[NDArray[np.floating]]:
        with torch.no_grad(), cuda.without_tf32() if device == "cuda" else nullcontext():
            found = module(*(torch.from_numpy(array).to(device) for array in (*arrays, target)))
        return [tensor.cpu().numpy() for tensor in found]

    return Session(run, [given.name for given in inputs], [given.name for given in inputs if given.attributed])
