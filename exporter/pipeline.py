"""The whole way: from a network to a module, and from there to proven files in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter import artifact
from exporter.artifact import FILES, Artifact
from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.emit import onnx as emit_onnx
from exporter.emit import torchscript as emit_torchscript
from exporter.errors import UnsupportedModel, UnsupportedOp, UsageError
from exporter.judge import Judge
from exporter.lowering import DEFAULT_TARGET, TARGETS, lower
from exporter.manifest import describe
from exporter.methods import METHODS, Method
from exporter.network import Network, as_network, check_module, copied, draw
from exporter.own_backward import own_backward
from exporter.program import Program, to_module
from exporter.proof import prove
from exporter.rectifiers import activations
from exporter.signature import BATCH, FLOATS, IMAGE, LOGITS, Input, Signature, name_attributions
from exporter.sources import tensors_of
from exporter.stages import Stages
from exporter.uncollected import leaves, unvisited

FORMATS = tuple(FILES)
DEFAULT_OPSET = 18


@torch.inference_mode(False)  # of the caller's, in which no gradient could be judged
def build(
    model: nn.Module,
    example_input: Tensor | Mapping[str, Tensor],
    method: str = "guided",
    *,
    output_key: str | None = None,
    dynamic: Sequence[str] = (BATCH,),
) -> nn.Module:
    """Rewrite a network as one explicit module: forward pass, backward pass, no autograd; proven before it is returned.

    Args:
        model: A network that maps a tensor ``[N, ...]``, or several, to logits ``[N, K]``; captured in eval mode.
        example_input: A batch of any size, or one for each input by name; only shape and dtype matter.
        method: ``guided``, ``gradient`` or ``deconvnet``; see :mod:`exporter.methods`.
        output_key: Where the logits are in what the network returns; see :class:`exporter.signature.Signature`.
        dynamic: The sizes that may vary: ``batch`` always, ``height`` and ``width`` of images ``[N, C, H, W]``,
            ``length`` of signals, ``steps`` of sequences; see :data:`exporter.signature.AXES`.

    Returns:
        A module whose ``forward(image, target)`` returns ``(logits, attribution)``, or of several inputs
        ``forward(*inputs, target)`` with ``(logits, *attributions)``, for any batch size. It shares the network's
        tensors, under the network's names, and runs eagerly, under ``torch.jit.script`` and under ``torch.export``.

    Raises:
        UsageError: The method is unknown, the inputs' names or dtypes are not ones that an artifact can have, or the
            network is not on the CPU.
        UnsupportedModel: The network cannot be captured or does not return logits ``[N, K]``.
        UnsupportedOp: One of its operators has no rule.
        VerificationFailed: The module disagrees with live autograd, as it does where a custom ``autograd.Function`` has
            a backward pass that is not its derivative.
    """
    rule = method_named(method)
    network = as_network(model, example_input, output_key, dynamic)
    explicit = _differentiated(network, canonicalize(capture(network)), rule)
    module = to_module(lower(explicit, "torchscript"))
    skip = _mixed(explicit, network.signature.dtype)
    prove({}, Judge(network, method, dimensions=explicit.dimensions, skip=skip), lowered=module)
    return module


def _differentiated(network: Network, program: Program, rule: Method) -> Program:
    """Append the backward pass; where there is none, say what of the network's own may be the reason."""
    try:
        return differentiate(program, rule)
    except UnsupportedOp:
        raise
    except UnsupportedModel as error:
        reasons = own_backward(network, draw(network.signature.inputs, 1, torch.Generator().manual_seed(0)))
        raise UnsupportedModel("; ".join([str(error), *reasons])) from error


def method_named(name: str) -> Method:
    """Look up an attribution method.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


@torch.inference_mode(False)
@unvisited()
def export(
    model: nn.Module,
    sample_shape: Sequence[int] | Sequence[Input],
    folder: str | Path,
    *,
    method: str = "guided",
    formats: Sequence[str] = FORMATS,
    opset: int = DEFAULT_OPSET,
    optimize_for: str = DEFAULT_TARGET,
    seed: int = 0,
    dtype: str = "float32",
    dynamic: Sequence[str] = (BATCH,),
    output_key: str | None = None,
    description: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
) -> Artifact:
    """Build, write, prove and put in place an artifact.

    Args:
        model: A network that maps ``[N, *sample_shape]`` to logits ``[N, K]``.
        sample_shape: One input's shape, without the batch; or, for a network of several inputs, each
            :class:`exporter.Input` in order.
        folder: Exactly this folder; an earlier artifact in it is replaced whole.
        method: See :func:`build`.
        formats: ``torchscript``, ``onnx`` or both.
        opset: Of the ONNX file, 17 to 23.
        optimize_for: Whose formulations the ONNX file has, one of :data:`exporter.lowering.TARGETS`.
        seed: Of the inputs that the proof tries.
        dtype: What the artifact computes in: ``float32``, ``float64`` or ``float16``. A copy of the network is
            converted; the network itself stays as it is.
        dynamic: See :func:`build`.
        output_key: See :func:`build`.
        description: Further entries for the manifest's ``model`` section, for example ``spec``.
        stages: Collects what each stage cost.

    Returns:
        The artifact; its manifest holds the parity certificate.

    Raises:
        UsageError: An argument is out of range, the network is not on the CPU, or the folder must not or cannot be
            written.
        UnsupportedModel: See :func:`build`.
        VerificationFailed: A written file disagrees with live autograd; nothing is left behind.
    """
    stages = stages or Stages()
    rule = method_named(method)
    _check(formats, opset, optimize_for, seed)
    signature = Signature(_inputs(sample_shape), output_key, tuple(dynamic)).with_dtype(dtype)
    network = Network(of_dtype(model, dtype), signature)
    artifact.check_output(Path(folder))
    leaves(sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())))

    with stages.stage("capture"):
        captured = capture(network)
        program = canonicalize(captured)
    with stages.stage("differentiate"):
        explicit = _differentiated(network, program, rule)
    with stages.stage("lower"):
        lowered = {format: lowered_for(explicit, format, optimize_for) for format in FORMATS if format in formats}
    with artifact.replacing(Path(folder)) as aside:
        files = {format: aside / FILES[format] for format in lowered}
        for format, path in files.items():
            with stages.stage(f"emit {format}"):
                emit(lowered[format], format, path, opset, optimize_for)
        with stages.stage("verify"):
            graph = to_module(lowered["onnx"]) if "onnx" in files and dtype != "float64" else None
            judge = Judge(network, method, dimensions=program.dimensions, seed=seed, skip=_mixed(explicit, dtype))
            certificate = prove(files, judge, lowered=graph)
        with stages.stage("write"):
            used = activations(captured)
            manifest = describe(
                network, explicit, rule, used, files, opset, optimize_for, certificate, description or {}
            )
            manifest = artifact.write_manifest(aside, manifest)
    return Artifact(Path(folder), manifest)


def _mixed(explicit: Program, dtype: str) -> str:
    """Say why a program that computes in a wider dtype in places has no twin in float64; empty where it has one.

    Of float16 one that computes in float32, for it would there too; of float32 one that makes constants in float64, for
    there it rounds what a twin does not.
    """
    nodes = [node for node in explicit.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    if dtype == "float16" and any(node.meta["val"].dtype == torch.float32 for node in nodes):
        return "the network computes in float32 in places"
    made = (node for node in nodes if node.op == "call_function" and not node.all_input_nodes)
    if dtype == "float32" and any(node.meta["val"].dtype == torch.float64 for node in made):
        return "the network makes constants in float64"
    return ""


def _inputs(shape: Sequence[int] | Sequence[Input]) -> tuple[Input, ...]:
    """Return the inputs of a signature: those given, or the one image of a shape."""
    if isinstance(shape, Input):
        return (shape,)
    if isinstance(shape, Sequence) and shape and all(isinstance(one, Input) for one in shape):
        return tuple(shape)  # type: ignore[arg-type]
    return (Input(IMAGE, shape),)  # type: ignore[arg-type]


def of_dtype(model: nn.Module, dtype: str) -> nn.Module:
    """Return a network in a dtype: itself where it has it already, else a converted copy.

    Raises:
        UsageError: The network is of another dtype than float32, and not of the one asked for.
    """
    check_module(model)
    wanted = getattr(torch, dtype)
    odd: dict[torch.dtype, str] = {}
    for name, tensor in tensors_of(model).items():
        if tensor.is_floating_point() and tensor.dtype != wanted:
            odd.setdefault(tensor.dtype, name)
    other = next((found for found in odd if found != torch.float32), None)
    if other is not None:
        name = str(other).removeprefix("torch.")
        raise UsageError(
            f"the network's {odd[other]} is {other}, and the artifact would be {dtype}; convert the network with "
            f"model.float(){f', or ask for --dtype {name}' if name in FLOATS else ''}"
        )
    return copied(model).to(wanted) if odd else model


def _check(formats: Sequence[str], opset: int, optimize_for: str, seed: int) -> None:
    if isinstance(formats, str):
        raise UsageError(f"formats is a sequence of names, [{formats!r}]")
    unknown = [format for format in formats if format not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"unknown format {', '.join(map(repr, unknown)) or '(none)'}; there are {', '.join(FORMATS)}")
    if not isinstance(opset, int) or not emit_onnx.MIN_OPSET <= opset <= emit_onnx.MAX_OPSET:
        raise UsageError(f"opset {opset!r} is not supported: {emit_onnx.MIN_OPSET} to {emit_onnx.MAX_OPSET} are")
    if optimize_for not in TARGETS:
        raise UsageError(f"cannot optimize for {optimize_for!r}; there are {', '.join(TARGETS)}")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Refuse what is no seed of torch's generator."""
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed!r} is out of range: 0 to {2**63 - 1} are in it")


EMISSION = {
    "onnxruntime": {"early_masks": True},
    "cuda": {"symmetric_pads": True},
    "portable": {"symmetric_pads": True},
}
"""Target -> how its lowered program is translated; see :func:`exporter.emit.onnx.translate`."""


def lowered_for(explicit: Program, format: str, optimize_for: str = DEFAULT_TARGET) -> Program:
    """Lower an explicit program for the runtime of a format.

    Args:
        explicit: What :func:`exporter.differentiate.differentiate` returned.
        format: ``torchscript`` or ``onnx``.
        optimize_for: Whose formulations an ONNX file has.
    """
    return lower(explicit, format if format == "torchscript" else optimize_for)


def emit(
    lowered: Program, format: str, path: Path, opset: int = DEFAULT_OPSET, optimize_for: str = DEFAULT_TARGET
) -> None:
    """Write a lowered program as one file.

    Args:
        lowered: What :func:`lowered_for` returned for the same format and target.
        format: ``torchscript`` or ``onnx``.
        path: The file.
        opset: Of an ONNX file.
        optimize_for: Whose formulations an ONNX file has.
    """
    if format == "torchscript":
        emit_torchscript.emit(lowered, path)
    else:
        names = (LOGITS, *attribution_names(lowered))
        emit_onnx.emit(lowered, path, names, opset, **EMISSION.get(optimize_for, {}))


def write(
    explicit: Program, format: str, path: Path, opset: int = DEFAULT_OPSET, optimize_for: str = DEFAULT_TARGET
) -> Program:
    """Lower an explicit program for a format's runtime, and write one file; see :func:`emit`.

    Returns:
        The lowered program, which the file holds.
    """
    lowered = lowered_for(explicit, format, optimize_for)
    emit(lowered, format, path, opset, optimize_for)
    return lowered


def attribution_names(explicit: Program) -> tuple[str, ...]:
    """Return the names of an explicit program's outputs after the logits."""
    *given, _ = zip(explicit.inputs, explicit.placeholders, strict=False)
    floats = [name for name, node in given if node.meta["val"].is_floating_point()]
    return name_attributions([name for name, _ in given], floats)
