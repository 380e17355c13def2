"""NVIDIA GPUs: a session is wholly on one or it is an error, and computes in float32, as the artifact was proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporter.errors import ArtifactError, UsageError

PROVIDER = "CUDAExecutionProvider"


FORMULATIONS = "portable"
"""What an ONNX file must be optimized for."""


def check_formulations(optimize_for: str) -> None:
    """Refuse an ONNX file with formulations that are not for a GPU.

    One with those for onnxruntime's CPU reads the taps of a max-pool by depthwise Convs of one tap with a stride, see
    :mod:`exporter.lowering.blocked`. Of 8 images or more those come out wrong on a GPU, and with them the map:
    onnxruntime 1.31 with cuDNN 9.19 was off by its whole length for one such Conv, whatever its padding, with the
    algorithm that its search chose; PyTorch with the same cuDNN was not.

    Raises:
        UsageError: It is not portable.
    """
    if optimize_for != FORMULATIONS:
        raise UsageError(
            f"the ONNX file was optimized for {optimize_for!r}, and parts of it may be slow or wrong on a GPU; "
            f"export it with --optimize-for {FORMULATIONS}, or load torchscript"
        )


def open_onnxruntime(path: Path, options: Any) -> Any:
    """Load an ONNX file on the first GPU.

    onnxruntime would take the CPU for a whole session, or for single operators between copies of their inputs and
    outputs: both are refused. What it computes with sizes it keeps on the CPU on purpose, where they are known without
    waiting for the GPU. TF32, its default for products of float32, is off.

    Raises:
        ArtifactError: onnxruntime does not load the file.
        UsageError: onnxruntime has no GPU here, or no GPU kernel for a part of the file.
    """
    import onnxruntime

    label = f"onnxruntime {onnxruntime.__version__}"
    if PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError(
            f"this onnxruntime has no {PROVIDER}; for NVIDIA GPUs, pip uninstall onnxruntime, then "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        raise UsageError(f"{label} does not say what it would run on the CPU; onnxruntime-gpu 1.24 or later does")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip has put them

    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(PROVIDER, {"use_tf32": "0"})]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=False)
    except Exception as error:
        raise ArtifactError(f"{label} does not load {path.name} on a GPU: {error}") from error
    if PROVIDER not in session.get_providers():
        raise UsageError(
            f"{label} cannot start its {PROVIDER}: it finds no GPU, or not the CUDA and cuDNN that it needs; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings those"
        )
    elsewhere = _elsewhere(session, path)
    if elsewhere:
        kinds, place = ", ".join(dict.fromkeys(node.op_type for node in elsewhere)), elsewhere[0].name
        raise UsageError(
            f"{label} would run {kinds} on the CPU, for which it has no GPU kernel, in {path.name} at {place}; "
            "load torchscript"
        )
    return session


def _elsewhere(session: Any, path: Path) -> list[Any]:
    """Return the nodes that do not run on the GPU, but for those that compute with sizes."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != PROVIDER]
    nodes = [node for part in parts for node in part.get_nodes()]
    of_sizes = _of_sizes(path) if nodes else set()
    return [node for node in nodes if node.name not in of_sizes]


def _of_sizes(path: Path) -> set[str]:
    """Return the names of the nodes that compute with sizes and constants alone."""
    import onnx

    graph = onnx.load_model(path).graph
    known = {tensor.name for tensor in graph.initializer}
    names = set()
    for node in graph.node:
        if node.op_type == "Shape" or known.issuperset(filter(None, node.input)):
            known.update(node.output)
            names.add(node.name)
    return names


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let PyTorch's convolutions multiply in float32, where TF32 is the default; and restore the setting."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
