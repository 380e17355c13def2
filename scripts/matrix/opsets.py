"""Which onnxruntime runs which opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from scripts.matrix.installed import VERSIONS, Installed, work
from scripts.matrix.trials import relative_l2

OPSETS = range(17, 24)
OPSET_MODELS = (("cifar_resnet20", 32), ("resnet18", 64), ("mobilenet_v2", 64))


@dataclass(frozen=True)
class Opsets:
    """What one version of onnxruntime makes of the opsets.

    Attributes:
        version: Its version.
        claims: The last opset that it takes a file of.
        ir: The last IR version that it takes a file of.
        errors: Per opset that was written, the worst relative L2 error of all samples, or why it does not run.
    """

    version: str
    claims: int
    ir: int
    errors: dict[str, float | str]


def opset_table(installed: Installed, folder: Path, quick: bool) -> Iterator[Opsets]:
    """Run every opset in every version."""
    written = write_opsets(folder / "opsets", OPSET_MODELS[:1] if quick else OPSET_MODELS)
    for wanted in (*VERSIONS, None):
        row = try_opsets(written, folder / "opsets", installed(wanted) if wanted else None)
        click.echo(f"onnxruntime {row.version}: opset {row.claims}, IR {row.ir}, {row.errors}")
        yield row


def write_opsets(folder: Path, networks: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Write networks with every opset; returns live autograd's attributions by network."""
    import torch

    from exporter.canonicalize import canonicalize
    from exporter.capture import capture
    from exporter.differentiate import differentiate
    from exporter.methods import METHODS as RULES
    from exporter.pipeline import emit, lowered_for
    from exporter.reference import live
    from exporter.sources import resolve

    folder.mkdir()
    write_probes(folder)
    expected = {}
    for name, image in networks:
        source = resolve(name, sample_shape=(3, image, image))
        images = torch.randn(4, *source.sample_shape, generator=torch.Generator().manual_seed(2))
        target = torch.tensor([-1, 1, -1, 3])
        explicit = differentiate(canonicalize(capture(source.model, images)), RULES["guided"])
        lowered = lowered_for(explicit, "onnx")
        for opset in OPSETS:
            emit(lowered, "onnx", folder / f"{name}-{opset}.onnx", opset)
        np.savez(folder / f"{name}.npz", image_0=images.numpy(), target_0=target.numpy())
        expected[name] = live(source.model, images, target, "guided", count=False)[1][0].numpy()
    return expected


NEWER = 8
"""How many opsets and IR versions after the last that an export writes are asked for."""


def write_probes(folder: Path) -> None:
    """Write files of one operator that no opset changed, so that a version tells which stamps it takes."""
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "logits", "attribution")]
    nodes = [helper.make_node("Neg", ["x"], [name]) for name in ("logits", "attribution")]
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:])
    for opset in range(OPSETS.start, OPSETS.stop + NEWER):
        for ir in range(8, 12 + NEWER):
            model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
            if ir == 8 or opset == OPSETS.start:
                save(model, folder / f"probe-{opset}-{ir}.onnx")
    np.savez(folder / "probe.npz")  # nothing to run: to be loaded is enough


def try_opsets(expected: Mapping[str, Any], folder: Path, packages: Path | None) -> Opsets:
    """Ask one version of onnxruntime what it takes, and run what was written.

    Args:
        expected: What :func:`write_opsets` returned.
        folder: Where it wrote.
        packages: Where the version is installed; None: with this Python.
    """
    probes = sorted(folder.glob("probe-*.onnx"))
    tasks = [[str(probe), str(folder / "probe.npz"), str(folder / "probe-out.npz")] for probe in probes]
    models = [(name, opset) for opset in OPSETS for name in expected]
    tasks += [
        [str(folder / f"{name}-{opset}.onnx"), str(folder / f"{name}.npz"), str(folder / f"out-{name}-{opset}.npz")]
        for name, opset in models
    ]
    answer = work({"runtime": "onnxruntime", "explain": tasks}, packages)
    reasons = answer["explain"]
    taken = [probe.stem.split("-") for probe, reason in zip(probes, reasons, strict=False) if not reason]
    claims = max(int(opset) for _, opset, _ in taken)
    errors: dict[str, float | str] = {}
    for (name, opset), reason in zip(models, reasons[len(probes) :], strict=True):
        if opset > claims:
            continue
        if reason:
            errors[str(opset)] = f"{name}: {reason}"
        elif not isinstance(errors.get(str(opset)), str):
            with np.load(folder / f"out-{name}-{opset}.npz") as found:
                worst = max(relative_l2(found["attribution_0"], expected[name]))
            errors[str(opset)] = max(worst, float(errors.get(str(opset), 0.0)))
    return Opsets(answer["version"], claims, max(int(ir) for _, _, ir in taken), errors)
