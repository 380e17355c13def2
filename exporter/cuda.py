"""NVIDIA GPUs: a session is wholly on one, but for sizes, and computes in float32, as the artifact was proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import onnx

PROVIDER = "CUDAExecutionProvider"

OPTIMIZED_FOR = ("cuda", "portable")
"""What an ONNX file must be optimized for, the faster first: no other has been tested on a GPU and was right there."""

OLDEST = (1, 31)
"""The version of onnxruntime that has been tested. Before 1.24 none says what it would run on the CPU."""

REMEDY = "load torchscript instead"


def check_optimized_for(target: str | None) -> None:
    """Refuse an ONNX file that is not for a GPU.

    Raises:
        UsageError: It is not.
    """
    if target not in OPTIMIZED_FOR:
        raise UsageError(
            f"this ONNX file was optimized for {target!r}, and on a GPU {' and '.join(map(repr, OPTIMIZED_FOR))} alone "
            f"have been tested; export it anew with --optimize-for {OPTIMIZED_FOR[0]}, or {REMEDY}"
        )


def open_onnxruntime(path: Path, options: Any) -> Any:
    """Load an ONNX file on the first GPU.

    onnxruntime would take the CPU for a whole session, or for single operators between copies of their inputs and
    outputs: both are refused. What it computes of sizes and constants alone it keeps on the CPU on purpose, where they
    are known without waiting for the GPU. TF32, its default for products of float32, is off.

    The file is read here too, before onnxruntime reads it, to know its operators.

    Raises:
        ArtifactError: onnx or onnxruntime does not load the file.
        UsageError: onnxruntime has no GPU here or is too old, would run a part of the file on the CPU, or would compute
            a part of it wrongly.
    """
    import onnx
    import onnxruntime

    label = f"onnxruntime {onnxruntime.__version__}"
    if PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError(
            f"this onnxruntime has no {PROVIDER}; for NVIDIA GPUs, pip uninstall onnxruntime, then "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < OLDEST:
        raise UsageError(f"{label} is too old for a GPU; install onnxruntime-gpu {'.'.join(map(str, OLDEST))} or later")
    onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip has put them

    try:
        graph = onnx.load_model(path).graph
    except Exception as error:
        raise ArtifactError(f"onnx {onnx.__version__} does not load {path.name}: {error}") from error
    wrong = next(filter(_is_wrong, graph.node), None)
    if wrong is not None:
        raise UsageError(
            f"{label} may compute {wrong.name} of {path.name} wrongly on a GPU, a grouped Conv of one tap with a "
            f"stride; {REMEDY}"
        )

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
    elsewhere = _elsewhere(session, graph)
    if elsewhere:
        kinds, place = ", ".join(dict.fromkeys(node.op_type for node in elsewhere)), elsewhere[0].name
        raise UsageError(f"{label} would run {kinds} of {path.name} on the CPU, at {place}; {REMEDY}")
    return session


def _elsewhere(session: Any, graph: onnx.GraphProto) -> list[Any]:
    """Return the nodes that do not run on the GPU, but for those that compute of sizes and constants alone."""
    known = {tensor.name for tensor in graph.initializer}
    of_sizes = set()
    for node in graph.node:
        if node.op_type == "Shape" or known.issuperset(filter(None, node.input)):
            known.update(node.output)
            of_sizes.add(node.name)
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != PROVIDER]
    return [node for part in parts for node in part.get_nodes() if node.name not in of_sizes]


def _is_wrong(node: onnx.NodeProto) -> bool:
    """Tell whether a node is one that onnxruntime's GPU kernel computes wrongly.

    A grouped Conv of one tap with a stride. A depthwise one, as :class:`exporter.lowering.taps.BlockedTaps` reads a
    max-pool's windows for onnxruntime's CPU, of 64 channels and 8 or 32 images of 112x112, was at a relative L2
    distance of 0.98 to 1.0 in onnxruntime 1.31.1 with cuDNN 9.19 on an H200, by the algorithm that its search chose;
    and exact with ``cudnn_conv_algo_search`` at ``DEFAULT``, for one image, or in PyTorch.
    """
    settings = {attribute.name: attribute for attribute in node.attribute}
    return (
        node.op_type == "Conv"
        and settings["group"].i > 1
        and set(settings["kernel_shape"].ints) == {1}
        and max(settings["strides"].ints) > 1
    )


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
