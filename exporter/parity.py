"""Parity: run the written files in fresh sessions, and compare every value with live autograd.

Two proofs complement each other. In float64 the TorchScript file, and the graph that the ONNX file was written from,
must agree to 1e-10 on every input: rounding cannot hide a wrong rule or a wrong pass. In float32 each runtime is
compared as it will be used. There an attribution is discontinuous where a rectifier's input is within rounding of
zero, or a max-pool's two largest values of each other: one flipped mask deep in a VGG changes 3 % of the pixels. So a
sample may differ, but not by more than live autograd itself does when its input moves by rounding; and enough samples
must agree outright, some of them in a batch, with a named class, and with the predicted one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.artifact import Artifact
from exporter.capture import evaluating
from exporter.errors import ArtifactError, VerificationFailed
from exporter.reference import live
from exporter.runtime import PREDICTED, Explanation, Session, open_session, run_module

Reference = tuple[Tensor, Tensor, Tensor]
"""What :func:`exporter.reference.live` returns for a batch."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Largest relative L2 error that counts as agreement."""

NUDGE = 2.0**-19
"""How far an input is moved to see what rounding can do, in units of its root mean square: 16 float32 ulps."""

NUDGES = 16
"""How often a sample that disagrees is moved."""

SLACK = 4.0
"""How many times further than live autograd moved a runtime may be: it may flip several masks at once."""

MOST_FAILURES = 5
"""How many lines of a runtime's failures a report has."""

AGREEING = 0.25
"""Share of the samples that must agree."""

BATCHES = (1, 3)
MORE_BATCHES = (4, 4, 4)
"""Batches that are tried on top, one by one, while too few samples agree."""


@dataclass(frozen=True)
class Parity:
    """How far one runtime is from live autograd.

    Attributes:
        runtime: ``onnxruntime``, ``torchscript``, or ``eager`` for a module run by PyTorch.
        dtype: ``float32`` or ``float64``.
        relative_l2: ``|a - b| / |b|`` of each sample's attribution.
        max_abs: Largest absolute difference of each sample's attribution.
        logits_relative_l2: The same as ``relative_l2`` for the logits.
        undecided: How many comparisons of each sample float32 cannot decide.
        sensitivity: How far live autograd itself moves, in relative L2, when a sample's input moves by rounding, as
            far as it was tried; 0 where the sample agrees.
        worst: Of each sample, where the attribution differs most, and the two values there.
    """

    runtime: str
    dtype: str
    relative_l2: tuple[float, ...]
    max_abs: tuple[float, ...]
    logits_relative_l2: tuple[float, ...]
    undecided: tuple[int, ...]
    sensitivity: tuple[float, ...]
    worst: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """Relative L2 error up to which a sample agrees."""
        return TOLERANCE[self.dtype]

    @property
    def agreeing(self) -> float:
        """Share of the samples within the tolerance."""
        return float(np.mean(self.agrees))

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Which samples are within the tolerance."""
        return np.asarray(self.relative_l2) <= self.tolerance

    def failures(self) -> list[str]:
        """Say what is out of bounds; empty where everything is within."""
        found = []
        where = f"{self.runtime} {self.dtype}"
        if self.agreeing < AGREEING:
            found.append(
                f"{where}: attribution, {self.agreeing:.0%} of {len(self.relative_l2)} samples agree to "
                f"{self.tolerance:.0e}, at least {AGREEING:.0%} must; median {float(np.median(self.relative_l2)):.2e}"
            )
        for index, error in enumerate(self.logits_relative_l2):
            if not error <= self.tolerance:
                found.append(f"{where}: logits of sample {index}, relative L2 {error:.2e} > {self.tolerance:.0e}")
        for index, error in enumerate(self.relative_l2):
            moves = self.sensitivity[index]
            bound = max(self.tolerance, SLACK * moves if self.dtype == "float32" else 0.0)
            if not error <= bound:
                figures = f"relative L2 {error:.2e} > {bound:.0e}; {self.worst[index]}"
                found.append(f"{where}: attribution of sample {index}, {figures}")
        rest = len(found) - MOST_FAILURES
        return [*found[:MOST_FAILURES], f"{where}: and {rest} more"] if rest > 0 else found

    def summary(self) -> dict[str, Any]:
        """Return the figures for the manifest: median and worst of each measure."""
        return {
            "runtime": self.runtime,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "agreeing": self.agreeing,
            "relative_l2": _spread(self.relative_l2),
            "max_abs": _spread(self.max_abs),
            "logits_relative_l2": _spread(self.logits_relative_l2),
            "undecided": list(self.undecided),
            "sensitivity": list(self.sensitivity),
        }


@dataclass(frozen=True)
class Certificate:
    """What was compared with what, and how far apart it was.

    Attributes:
        reference: What the runtimes were compared with.
        seed: Seed of the random inputs and targets.
        batches: The batch sizes tried, through the same file.
        targets: The target of each sample in order, -1 for the predicted class.
        rejected_targets: Targets outside ``[-1, K)`` that every runtime refused.
        zero: How many samples have an attribution that is zero throughout, and so prove little.
        skipped: Why there is no proof in float64, or empty.
        runtimes: The parity of each runtime.
    """

    reference: str
    seed: int
    batches: tuple[int, ...]
    targets: tuple[int, ...]
    rejected_targets: tuple[int, ...]
    zero: int
    skipped: str
    runtimes: tuple[Parity, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest holds."""
        plain = asdict(self)
        plain["runtimes"] = [parity.summary() for parity in self.runtimes]
        return plain


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
        model: The network that it was made from, float32.
        seed: Of the inputs and targets; default: the artifact's own.
        batches: Batch sizes, each through the same loaded file.

    Raises:
        ArtifactError: The folder is no artifact, or a file is not the one that was proven.
        VerificationFailed: Some value is out of bounds, or a bad target was accepted; the message lists each.
    """
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    return prove(
        {format: artifact.file(format) for format in manifest["files"]},
        model,
        manifest["inputs"][0]["shape"][1:],
        manifest["method"]["name"],
        seed=manifest["seed"] if seed is None else seed,
        batches=batches,
    )


def prove(
    files: Mapping[str, Path],
    model: nn.Module,
    sample_shape: Sequence[int],
    method: str,
    *,
    lowered: nn.Module | None = None,
    seed: int = 0,
    batches: Sequence[int] = BATCHES,
) -> Certificate:
    """Prove that written files compute what live autograd computes.

    Args:
        files: Format -> file: ``torchscript``, ``onnx`` or both.
        model: The network that they were made from, float32.
        sample_shape: One input's shape, without the batch.
        method: ``guided``, ``gradient`` or ``deconvnet``.
        lowered: The graph that the ONNX file was written from, to be tried in float64, which onnxruntime cannot.
        seed: Of the inputs (standard normal) and of the targets (predicted and random by turns).
        batches: Batch sizes, each through the same loaded file.

    Raises:
        VerificationFailed: Some value is out of bounds, or a bad target was accepted; the message lists each.
    """
    with evaluating(model):
        trial = _Trial(files, model, tuple(sample_shape), method, lowered, seed)
        for size in batches:
            trial.run(size)
        for size in MORE_BATCHES:
            if trial.enough():
                break
            trial.run(size)
        return trial.certificate()


class _Trial:
    """Sessions on the written files, and what they and the reference returned so far."""

    def __init__(
        self,
        files: Mapping[str, Path],
        model: nn.Module,
        sample_shape: tuple[int, ...],
        method: str,
        lowered: nn.Module | None,
        seed: int,
    ) -> None:
        self._models = {"float32": model}
        try:
            self._sessions = _sessions(files, lowered)
        except ArtifactError as error:
            raise VerificationFailed(str(error)) from error
        self._sample_shape = sample_shape
        self._method = method
        self._seed = seed
        self._cases: list[_Case] = []
        try:
            exact = copy.deepcopy(model).double()
            exact(torch.zeros(1, *sample_shape, dtype=torch.float64))
            self._models["float64"] = exact
            self._skipped = ""
        except Exception as error:  # a network may pin float32, or hold what cannot be copied
            self._skipped = (
                f"the network does not run in float64: {(str(error).strip() or repr(error)).splitlines()[0]}"
            )
            self._sessions = [session for session in self._sessions if session[1] != "float64"]
        self._references: dict[str, list[Reference]] = {dtype: [] for dtype in self._models}
        self._results: list[list[Explanation]] = [[] for _ in self._sessions]

    def run(self, size: int) -> None:
        """Put one more batch through the reference and through every session."""
        done = sum(len(case.target) for case in self._cases)
        case = _case(self._models["float32"], self._sample_shape, size, self._seed + len(self._cases), done)
        self._cases.append(case)
        judge = next(reversed(self._models))
        for dtype, model in self._models.items():
            image = case.image.to(getattr(torch, dtype))
            self._references[dtype].append(live(model, image, case.target, self._method, count=dtype == judge))
        for (_, dtype, session), results in zip(self._sessions, self._results, strict=True):
            results.append(session(case.image.numpy().astype(dtype), case.target.numpy()))

    def parities(self) -> tuple[Parity, ...]:
        """Compare what there is so far; sensitivities are not measured yet."""
        # Undecided comparisons are counted in float64 where that runs: there their operands are known.
        *_, judge = self._references.values()
        undecided = tuple(int(count) for *_, counts in judge for count in counts)
        return tuple(
            compare(runtime, dtype, results, self._references[dtype], undecided)
            for (runtime, dtype, _), results in zip(self._sessions, self._results, strict=True)
        )

    def enough(self) -> bool:
        """Tell whether enough samples agree: a share of all, and one of each kind."""
        sizes = [len(case.target) for case in self._cases for _ in case.target]
        targets = [int(target) for case in self._cases for target in case.target]
        kinds = [
            [size > 1 for size in sizes],
            [target == PREDICTED for target in targets],
            [target != PREDICTED for target in targets],
        ]
        return all(
            parity.agreeing >= AGREEING and all((parity.agrees & kind).any() or not any(kind) for kind in kinds)
            for parity in self.parities()
        )

    def _with_sensitivity(self, parity: Parity) -> Parity:
        """Measure the sensitivity of the samples that do not agree in float32."""
        if parity.dtype != "float32" or parity.agrees.all():
            return parity
        moves = [
            0.0 if agrees else self._sensitivity(index, error)
            for index, (agrees, error) in enumerate(zip(parity.agrees, parity.relative_l2, strict=True))
        ]
        return replace(parity, sensitivity=tuple(moves))

    def _sensitivity(self, index: int, error: float) -> float:
        """Return how far the reference moves when a sample's input moves by rounding, or far enough for an error."""
        images = torch.cat([case.image for case in self._cases])
        targets = torch.cat([case.target for case in self._cases])
        logits, expected, _ = (torch.cat(part) for part in zip(*self._references["float32"], strict=True))
        chosen = logits[index].argmax() if targets[index] == PREDICTED else targets[index]
        generator = torch.Generator().manual_seed(index)
        furthest = 0.0
        for _ in range(NUDGES // 4):
            noise = torch.randn(4, *self._sample_shape, generator=generator)
            moved = images[index] + NUDGE * images[index].square().mean().sqrt() * noise
            _, rows, _ = live(self._models["float32"], moved, chosen.expand(4), self._method, count=False)
            furthest = max(furthest, *relative_l2(rows.numpy(), expected[index].expand_as(rows).numpy()))
            if SLACK * furthest >= error:
                break
        return furthest

    def certificate(self) -> Certificate:
        """Judge; raises VerificationFailed."""
        first = self._cases[0]
        rejected = (first.classes, -2)
        parities = tuple(self._with_sensitivity(parity) for parity in self.parities())
        failures = [failure for parity in parities for failure in parity.failures()]
        if not failures and not self.enough():
            failures.append(
                "too few samples agree outright: none in a batch, none of a named or none of a predicted class"
            )
        failures += [
            f"{runtime} {dtype}: target {target} was accepted in a batch of {len(case.target)}, "
            f"but there are {case.classes} classes"
            for runtime, dtype, session in self._sessions
            for target in rejected
            for case in self._cases
            if _accepts(session, case, dtype, target)
        ]
        if failures:
            raise VerificationFailed("not equal to live autograd; nothing was written\n  " + "\n  ".join(failures))
        return Certificate(
            reference=f"live autograd, torch {torch.__version__}, method {self._method}",
            seed=self._seed,
            batches=tuple(len(case.target) for case in self._cases),
            targets=tuple(int(target) for case in self._cases for target in case.target),
            rejected_targets=rejected,
            zero=sum(int(not row.any()) for _, rows, _ in self._references["float32"] for row in rows),
            skipped=self._skipped,
            runtimes=parities,
        )


@dataclass(frozen=True)
class _Case:
    image: Tensor
    target: Tensor
    classes: int


def _case(model: nn.Module, sample_shape: Sequence[int], size: int, seed: int, done: int) -> _Case:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, *sample_shape, generator=generator)
    with torch.no_grad():
        logits = model(image.clone())
    classes = logits.shape[1]
    target = torch.randint(classes, (size,), generator=generator)
    target[done % 2 :: 2] = PREDICTED  # by turns, over all batches
    return _Case(image, torch.where(_near_tie(logits), logits.argmax(1), target), classes)


def _near_tie(logits: Tensor) -> Tensor:
    """Return, per sample, whether rounding may decide which class is predicted: then the target is named instead."""
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.bool)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second <= 1e-5 * logits.abs().amax(1)


def _sessions(files: Mapping[str, Path], lowered: nn.Module | None) -> list[tuple[str, str, Session]]:
    found = []
    if "torchscript" in files:
        found.append(("torchscript", "float64", open_session(files["torchscript"], "torchscript", double=True)))
        found.append(("torchscript", "float32", open_session(files["torchscript"], "torchscript")))
    if "onnx" in files:
        try:
            onnx.checker.check_model(str(files["onnx"]), full_check=True)  # with strict shape inference
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ArtifactError(f"onnx.checker refuses {files['onnx'].name}: {error}") from error
        if lowered is not None:
            found.append(("eager", "float64", Session(run_module(copy.deepcopy(lowered).double()))))
        found.append(("onnxruntime", "float32", open_session(files["onnx"], "onnxruntime")))
    return found


def _accepts(session: Session, case: _Case, dtype: str, target: int) -> bool:
    targets = case.target.numpy().copy()
    targets[-1] = target
    try:
        session(case.image.numpy().astype(dtype), targets)
    except Exception:
        return False
    return True


def compare(
    runtime: str,
    dtype: str,
    results: Sequence[Explanation],
    references: Sequence[Reference],
    undecided: tuple[int, ...],
) -> Parity:
    """Compare batches of results with live autograd's, sample by sample.

    Args:
        runtime: Where the results come from.
        dtype: ``float32`` or ``float64``.
        results: One for each batch.
        references: What :func:`exporter.reference.live` returned for each batch.
        undecided: How many comparisons of each sample rounding can flip.
    """
    logits = np.concatenate([result.logits for result in results])
    attribution = np.concatenate([result.attribution for result in results])
    expected_logits = torch.cat([reference[0] for reference in references]).numpy()
    expected = torch.cat([reference[1] for reference in references]).numpy()
    axes = tuple(range(1, expected.ndim))
    return Parity(
        runtime=runtime,
        dtype=dtype,
        relative_l2=tuple(relative_l2(attribution, expected)),
        max_abs=tuple(float(value) for value in np.abs(attribution - expected).max(axes)),
        logits_relative_l2=tuple(relative_l2(logits, expected_logits)),
        undecided=undecided,
        sensitivity=(0.0,) * len(expected),
        worst=tuple(_worst(*rows) for rows in zip(attribution, expected, strict=True)),
    )


def _worst(found: NDArray[np.floating], expected: NDArray[np.floating]) -> str:
    """Say where two arrays differ most, and what stands there."""
    place = np.unravel_index(int(np.argmax(np.nan_to_num(np.abs(found - expected), nan=np.inf))), found.shape)
    return f"worst at {[int(axis) for axis in place]}: {found[place]:.6g}, should be {expected[place]:.6g}"


def relative_l2(values: NDArray[np.floating], expected: NDArray[np.floating]) -> list[float]:
    """Return ``|values - expected| / |expected|`` of each sample; 0 where both are zero throughout."""
    errors = []
    for value, reference in zip(values.astype(np.float64), expected.astype(np.float64), strict=True):
        difference, norm = float(np.linalg.norm(value - reference)), float(np.linalg.norm(reference))
        errors.append(difference / norm if norm else (0.0 if difference == 0 else float("inf")))
    return errors


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "worst": float(np.max(values))}
