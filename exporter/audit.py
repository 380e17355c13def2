"""Re-check a finished artifact: every byte, then what it computes, against its certificate and live autograd."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from exporter.artifact import FILES, Artifact
from exporter.errors import ArtifactError, OtherVersion, UsageError, VerificationFailed
from exporter.judge import BATCHES, Judge
from exporter.network import Network, draw
from exporter.parity import AGREEING, BULK, SLACK, Values, continuous, relative_l2
from exporter.pipeline import check_seed, of_dtype
from exporter.proof import Certificate, as_input, as_values, digest, prove
from exporter.runtime import RUNTIMES, open_session
from exporter.signature import Dimension, Signature
from exporter.sources import weights_sha256

FLIPPED = 0.1
"""How far one flipped mask may move a sample, in relative L2: the most that was seen is 3 %, in a VGG."""


@dataclass(frozen=True)
class Recheck:
    """What a re-check without the network found.

    Attributes:
        samples: How many inputs were tried: the certificate's own.
        runtimes: Runtime -> how far its outputs are from the certificate's digests, at least: the largest relative
            distance over samples and outputs.
        between: Largest relative L2 difference of the two runtimes' attributions, or None where there is one only.
    """

    samples: int
    runtimes: dict[str, float]
    between: float | None


@torch.inference_mode(False)
def verify(
    folder: str | os.PathLike[str],
    model: nn.Module,
    *,
    seed: int | None = None,
    batches: Sequence[int] = BATCHES,
) -> Certificate:
    """Prove once more that an artifact computes what live autograd computes.

    Args:
        folder: The artifact.
        model: The network that it was made from.
        seed: Of the inputs and targets; default: the artifact's own.
        batches: Batch sizes, each through the same loaded file.

    Raises:
        ArtifactError: The folder is no artifact.
        UsageError: The network is no module or not on the CPU, or there is nothing to try.
        VerificationFailed: A byte has changed since the artifact was written, the network is another one, some value
            is out of bounds, or a bad target was accepted; the message lists each.
    """
    if not isinstance(batches, Sequence) or not batches or not all(isinstance(n, int) and n > 0 for n in batches):
        raise UsageError(f"batches are {batches!r}; give a list of whole numbers, each 1 at least")
    check_seed(0 if seed is None else seed)
    artifact = intact(folder)
    manifest = artifact.manifest
    signature = Signature.of_manifest(manifest)
    network = Network(of_dtype(model, signature.dtype), signature)
    if weights_sha256(network.model) != manifest["model"]["weights_sha256"]:
        raise VerificationFailed(f"{artifact.folder} was made from other weights than the {type(model).__name__} given")
    return prove(
        {format: artifact.folder / FILES[format] for format in manifest["files"]},
        Judge(
            network,
            manifest["method"]["name"],
            dimensions=Dimension.of_manifest(manifest),
            seed=manifest["seed"] if seed is None else seed,
            batches=batches,
            skip=manifest["parity"]["skipped"],
        ),
    )


def recheck(folder: str | os.PathLike[str]) -> Recheck:
    """Check an artifact without the network: its bytes, its runtimes against the recorded digests and each other.

    Args:
        folder: The artifact.

    Raises:
        ArtifactError: The folder is no artifact.
        VerificationFailed: A byte has changed, a runtime does not load its file, or answers otherwise than it did.
    """
    artifact = intact(folder)
    parity = artifact.manifest["parity"]
    signature = Signature.of_manifest(artifact.manifest)
    recorded = {entry["runtime"]: entry for entry in parity["runtimes"] if entry["dtype"] == signature.dtype}
    lacking = sorted({key for entry in recorded.values() for key in MEASURED if key not in entry})
    if lacking:
        raise OtherVersion(
            f"the certificate of {artifact.folder} is of another version of Saliport: it lacks {', '.join(lacking)}. "
            "Verify it with --model, or export it again."
        )
    answers: dict[str, list[Values]] = {}
    for runtime, format in RUNTIMES.items():
        if format in artifact.manifest["files"]:
            answers[runtime] = list(_answers(artifact.folder / FILES[format], runtime, signature, parity))
    failures = []
    distances = {}
    least = AGREEING[signature.dtype]
    tolerance = max(_tolerance(recorded[runtime], signature.dtype) for runtime in answers)
    bounds = {runtime: _bounds(recorded[runtime], tolerance) for runtime in answers}
    for runtime, values in answers.items():
        far = _from_digests(values, parity["digests"])
        failures += _failures(f"{runtime} and the certificate's digests", far, far, bounds[runtime], tolerance, least)
        distances[runtime] = max(far)
    between = None
    if len(answers) > 1:
        apart = _between([*answers.values()], 1.0)
        in_bulk = _between([*answers.values()], BULK)
        allowed = [sum(pair) for pair in zip(*bounds.values(), strict=True)]
        failures += _failures(" and ".join(answers), apart, in_bulk, allowed, tolerance, least)
        between = max(apart)
    if failures:
        raise VerificationFailed(f"{artifact.folder} is not what its certificate says\n  " + "\n  ".join(failures))
    return Recheck(len(parity["targets"]), distances, between)


MEASURED = ("sensitivity", "logits_sensitivity", "undecided", "rounding")
"""What a certificate says of each runtime that bounds how far it may be off."""


def _tolerance(recorded: Mapping[str, Any], dtype: str) -> float:
    """Return the relative L2 error that counts as agreement."""
    return max(continuous(dtype, moves) for moves in recorded["rounding"].values())


def _bounds(recorded: Mapping[str, Any], tolerance: float) -> list[float]:
    """Return how far each sample of a runtime may be from live autograd.

    On another processor another sample may have a mask flipped, but only where the certificate counts comparisons
    that rounding can decide.
    """
    return [
        max(tolerance, *(SLACK * far for far in moves), FLIPPED if undecided else 0.0)
        for *moves, undecided in zip(
            recorded["sensitivity"], recorded["logits_sensitivity"], recorded["undecided"], strict=True
        )
    ]


def _failures(
    who: str,
    errors: Sequence[float],
    in_bulk: Sequence[float],
    bounds: Sequence[float],
    tolerance: float,
    least: float,
) -> list[str]:
    """Say which samples differ by more than they may, and whether too few agree in bulk."""
    found = [
        f"{who}: sample {sample} differs by {error:.2e}, more than {bound:.0e}"
        for sample, (error, bound) in enumerate(zip(errors, bounds, strict=True))
        if not error <= bound
    ]
    agreeing = float(np.mean([error <= 2 * tolerance for error in in_bulk]))
    if agreeing < least:
        found.append(f"{who}: {agreeing:.0%} of {len(errors)} samples agree in bulk, at least {least:.0%} must")
    return found


def intact(folder: str | os.PathLike[str]) -> Artifact:
    """Open an artifact and check every byte of it."""
    path = Path(folder)
    if not path.is_dir():
        raise ArtifactError(f"{path} is not an artifact: there is no such folder")
    try:
        artifact = Artifact.open(path)
        artifact.check()
    except OtherVersion:
        raise
    except ArtifactError as error:
        raise VerificationFailed(str(error)) from error
    return artifact


def _answers(path: Path, runtime: str, signature: Signature, parity: Mapping[str, Any]) -> Any:
    """Run a file on the certificate's inputs, drawn again from its seed."""
    try:
        session = open_session(path, runtime, signature.inputs)
    except ArtifactError as error:
        raise VerificationFailed(str(error)) from error
    done = 0
    for index, case in enumerate(parity["cases"]):
        shapes = list(case.values())
        inputs = tuple(
            replace(given, shape=tuple(shape[1:])) for given, shape in zip(signature.inputs, shapes, strict=True)
        )
        size = shapes[0][0]
        drawn = draw(inputs, size, torch.Generator().manual_seed(parity["seed"] + index))
        target = np.asarray(parity["targets"][done : done + size], np.int64)
        done += size
        image = as_input(session, [x.numpy() for x in drawn])
        yield as_values(session(image, target), signature.attributions)


def _from_digests(values: Sequence[Values], recorded: Sequence[Mapping[str, Sequence[float]]]) -> list[float]:
    """Return, per sample, the largest relative distance that a digest shows."""
    found = []
    rows = [(batch, sample) for batch in values for sample in range(len(batch.logits))]
    for (batch, sample), digests in zip(rows, recorded, strict=True):
        outputs = {"logits": batch.logits, **batch.attributions}
        found.append(max(_apart(digest(outputs[name][sample]), known) for name, known in digests.items()))
    return found


def _apart(found: Sequence[float], known: Sequence[float]) -> float:
    difference = max(abs(a - b) for a, b in zip(found, known, strict=True))
    return difference / known[0] if known[0] else (0.0 if difference == 0 else float("inf"))


def _between(answers: Sequence[Sequence[Values]], share: float) -> list[float]:
    """Return, per sample, the largest relative L2 difference of two runtimes' outputs, over a share of the values."""
    found = []
    for a, b in zip(*answers, strict=True):
        for sample in range(len(a.logits)):
            pairs = (
                (a.attributions[name][None, sample], b.attributions[name][None, sample]) for name in a.attributions
            )
            found.append(max(relative_l2(*pair, share=share)[0] for pair in pairs))
    return found
