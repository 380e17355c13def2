"""NVIDIA GPUs: a session is wholly on one or it is an error, and computes in float32, as the artifact was proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporter.errors import ArtifactError, UsageError

PROVIDER = "CUDAExecutionProvider"


def open_onnxruntime(path: Path, options: Any) -> Any:
    """Load an ONNX file on the first GPU.

    onnxruntime would take the CPU for a whole session, or for single operators between copies of their inputs and
    outputs: both are refused. TF32, its default for products of float32, is off.

    Raises:
        ArtifactError: onnxruntime does not load the file.
        UsageError: onnxruntime has no GPU here, or no GPU kernel for a part of the file.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError(
            f"this onnxruntime has no {PROVIDER}; for NVIDIA GPUs, pip uninstall onnxruntime, then "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip has put them

    label = f"onnxruntime {onnxruntime.__version__}"

    def opened(wholly: bool) -> Any:
        """Return a session, or None where it would have to be wholly on the GPU and is not."""
        options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(wholly)))
        providers = [(PROVIDER, {"use_tf32": "0"})]
        try:
            return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=False)
        except Exception as error:
            if wholly and "fallback to CPU EP has been explicitly disabled" in str(error):
                return None
            raise ArtifactError(f"{label} does not load {path.name} on a GPU: {error}") from error

    session = opened(wholly=True)
    if session is not None:
        return session
    if PROVIDER not in opened(wholly=False).get_providers():
        raise UsageError(
            f"{label} cannot start its {PROVIDER}: it finds no GPU, or not the CUDA and cuDNN that it needs; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings those"
        )
    raise UsageError(
        f"{label} would run a part of {path.name} on the CPU, for which it has no GPU kernel; export it with "
        "--optimize-for portable, or load torchscript"
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
