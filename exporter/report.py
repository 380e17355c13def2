"""What the commands print: what was built, how well it agrees, and what it cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from exporter.artifact import Artifact
    from exporter.audit import Recheck
    from exporter.proof import Certificate
    from exporter.sources import Source
    from exporter.stages import Stages


def exported(source: Source, artifact: Artifact, stages: Stages, replaced: str | None = None) -> None:
    """Print what was built, how well it agrees, and what it cost; and which SPEC's artifact was there before."""
    console = _console()
    manifest = artifact.manifest
    *inputs, _ = (f"{given['name']} [{', '.join(map(str, given['shape']))}]" for given in manifest["inputs"])
    outputs = ", ".join(output["name"] for output in manifest["outputs"])
    console.print(
        f"{source.name} ({manifest['model']['parameters']:,} parameters, {source.weights}), "
        f"{manifest['method']['name']}: {', '.join(inputs)} -> {outputs}"
    )
    if source.trained is None:
        console.print("Note: the weights are as the factory made them; load yours with --weights if it did not.")
    elif not source.trained:
        console.print(
            "Note: these weights are random, so the attribution means nothing yet; load yours with --weights."
        )

    _proof(console, manifest["parity"], manifest["files"])
    times = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in stages.done)
    console.print(f"{times}; peak {max(stage.peak_mib for stage in stages.done):,.0f} MiB.")
    if replaced not in (None, source.spec):
        console.print(f"Note: the artifact of {replaced} was there before; --output names another folder.")
    console.print(f"Written: {artifact.folder}{os.sep}")


def verified(artifact: Artifact, certificate: Certificate) -> None:
    """Print the result of a proof that was made once more."""
    console = _console()
    console.print(f"{artifact.folder}: every byte is as it was written.")
    _proof(console, certificate.to_json(), artifact.manifest["files"])


def rechecked(artifact: Artifact, found: Recheck) -> None:
    """Print the result of a check without the network."""
    console = _console()
    console.print(f"{artifact.folder}: every byte is as it was written.")
    for runtime, far in found.runtimes.items():
        console.print(f"{runtime}: within {far:.1e} of the certificate's digests on its {found.samples} inputs.")
    if found.between is not None:
        console.print(f"{' and '.join(found.runtimes)}: within {found.between:.1e} of each other.")
    console.print("Give --model to compare with live autograd too.")


def _proof(console: Console, parity: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Print a certificate as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("runtime", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("logits", justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True)
    table.add_column("MiB", justify="right")
    for one in parity["runtimes"]:
        file = files["torchscript" if one["runtime"] == "torchscript" else "onnx"]
        table.add_row(
            one["runtime"],
            one["dtype"],
            f"{one['relative_l2']['median']:.1e}",
            f"{one['relative_l2']['worst']:.1e}",
            f"{one['logits_relative_l2']['worst']:.1e}",
            "(ONNX graph)" if one["runtime"] == "eager" else file["name"],
            "" if one["runtime"] == "eager" else f"{file['bytes'] / 2**20:.1f}",
        )
    samples = len(parity["targets"])
    shapes = [next(iter(case.values())) for case in parity["cases"]]
    batches = " and ".join(str(shape[0]) for shape in shapes)
    images = {tuple(shape[1:]) for shape in shapes}
    sizes = f", of {len(images)} sizes" if len(images) > 1 else ""
    exactly = min(one["samples"] for one in parity["runtimes"])
    fewer = f", in float64 on {exactly} of them" if exactly < samples else ""
    console.print(
        f"\nProven against live autograd on {samples} inputs in batches of {batches}{sizes}{fewer}; relative L2 errors:"
    )
    console.print(table)
    undecided = max(sum(one["undecided"]) for one in parity["runtimes"])
    if undecided:
        console.print(f"In {undecided} comparisons float32 rounding can decide, so a mask may flip there.")
    if parity["zero"] == samples:
        console.print("Note: the attribution is zero on all of these inputs; no cotangent reaches the image.")
    if parity["skipped"]:
        console.print(f"Note: no float64 proof, {parity['skipped']}.")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)
