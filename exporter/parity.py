"""Parity: run the written files in fresh sessions, and compare every value with live autograd.

Two proofs complement each other. In float64 the TorchScript file must agree to 1e-10 on every input: rounding cannot
hide a wrong rule. In float32 each runtime is compared as it will be used; there an attribution is discontinuous where
a rectifier's input is within rounding of zero, or a max-pool's two largest values of each other: one flipped mask deep
in a VGG changes 3 % of the pixels. A sample may differ that much only if the reference itself counts such an undecided
comparison in it, and at least a quarter of the samples must agree to rounding; more are tried where fewer do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.capture import evaluating
from exporter.errors import VerificationFailed
from exporter.reference import live
from exporter.runtime import Explanation, Session, open_session

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Largest relative L2 error that counts as agreement."""

FLIPPED_TOLERANCE = 0.05
"""Largest relative L2 error of a sample in which some comparison is within rounding."""

AGREEING = 0.25
"""Share of the samples that must agree, however many comparisons are undecided."""

BATCHES = (1, 3)
MORE_BATCHES = (4, 4, 4)
"""Batches that are tried on top, one by one, while too few samples agree."""


@dataclass(frozen=True)
class Parity:
    """How far one runtime is from live autograd.

    Attributes:
        runtime: ``onnxruntime`` or ``torchscript``.
        dtype: ``float32`` or ``float64``.
        relative_l2: ``|a - b| / |b|`` of each sample's attribution.
        max_abs: Largest absolute difference of each sample's attribution.
        logits_relative_l2: The same as ``relative_l2`` for the logits.
        undecided: How many comparisons of each sample float32 cannot decide.
    """

    runtime: str
    dtype: str
    relative_l2: tuple[float, ...]
    max_abs: tuple[float, ...]
    logits_relative_l2: tuple[float, ...]
    undecided: tuple[int, ...]

    @property
    def tolerance(self) -> float:
        """Bound on every sample without an undecided comparison."""
        return TOLERANCE[self.dtype]

    @property
    def agreeing(self) -> float:
        """Share of the samples within the tolerance."""
        return float(np.mean(np.asarray(self.relative_l2) <= self.tolerance))

    def failures(self) -> list[str]:
        """Say what is out of bounds; empty where everything agrees."""
        found = []
        where = f"{self.runtime} {self.dtype}"
        if self.agreeing < AGREEING:
            found.append(
                f"{where}: attribution, {self.agreeing:.0%} of {len(self.relative_l2)} samples agree to "
                f"{self.tolerance:.0e}, at least {AGREEING:.0%} must; median {float(np.median(self.relative_l2)):.2e}"
            )
        for index, error in enumerate(self.relative_l2):
            undecided = self.undecided[index] if self.dtype == "float32" else 0
            bound = FLIPPED_TOLERANCE if undecided else self.tolerance
            if not error <= bound:
                found.append(
                    f"{where}: attribution of sample {index}, relative L2 {error:.2e} > {bound:.0e} "
                    f"(largest difference {self.max_abs[index]:.2e}, {undecided} comparisons within rounding)"
                )
        for index, error in enumerate(self.logits_relative_l2):
            if not error <= self.tolerance:
                found.append(f"{where}: logits of sample {index}, relative L2 {error:.2e} > {self.tolerance:.0e}")
        return found

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
    files: Mapping[str, Path],
    model: nn.Module,
    sample_shape: Sequence[int],
    method: str,
    *,
    seed: int = 0,
    batches: Sequence[int] = BATCHES,
) -> Certificate:
    """Prove that written files compute what live autograd computes.

    Args:
        files: Format -> file: ``torchscript``, ``onnx`` or both.
        model: The network that they were made from, float32.
        sample_shape: One input's shape, without the batch.
        method: ``guided``, ``gradient`` or ``deconvnet``.
        seed: Of the inputs (standard normal) and of the targets (half random, half predicted).
        batches: Batch sizes, each through the same loaded file.

    Raises:
        VerificationFailed: Some value is out of bounds, or a bad target was accepted; the message lists each.
    """
    with evaluating(model):
        trial = _Trial(files, model, tuple(sample_shape), method, seed)
        for size in batches:
            trial.run(size)
        for size in MORE_BATCHES:
            if all(parity.agreeing >= AGREEING for parity in trial.parities()):
                break
            trial.run(size)
        return trial.certificate()


class _Trial:
    """Sessions on the written files, and what they and the reference returned so far."""

    def __init__(
        self, files: Mapping[str, Path], model: nn.Module, sample_shape: tuple[int, ...], method: str, seed: int
    ) -> None:
        self._models = {"float32": model}
        self._sessions = _sessions(files)
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
        self._references: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {dtype: [] for dtype in self._models}
        self._results: list[list[Explanation]] = [[] for _ in self._sessions]

    def run(self, size: int) -> None:
        """Put one more batch through the reference and through every session."""
        case = _case(self._models["float32"], self._sample_shape, size, self._seed + len(self._cases))
        self._cases.append(case)
        for dtype, model in self._models.items():
            image = case.image.to(getattr(torch, dtype))
            self._references[dtype].append(live(model, image, case.target, self._method))
        for (_, dtype, session), results in zip(self._sessions, self._results, strict=True):
            results.append(session(case.image.numpy().astype(dtype), case.target.numpy()))

    def parities(self) -> tuple[Parity, ...]:
        """Compare what there is so far."""
        # Undecided comparisons are counted in float64 where that runs: there their operands are known.
        *_, judge = self._references.values()
        undecided = tuple(int(count) for *_, counts in judge for count in counts)
        return tuple(
            compare(runtime, dtype, results, self._references[dtype], undecided)
            for (runtime, dtype, _), results in zip(self._sessions, self._results, strict=True)
        )

    def certificate(self) -> Certificate:
        """Judge; raises VerificationFailed."""
        first = self._cases[0]
        rejected = (first.classes, -2)
        parities = self.parities()
        failures = [failure for parity in parities for failure in parity.failures()]
        failures += [
            f"{runtime} {dtype}: target {target} was accepted, but there are {first.classes} classes"
            for runtime, dtype, session in self._sessions
            for target in rejected
            if _accepts(session, first.image.numpy().astype(dtype), target)
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


def _case(model: nn.Module, sample_shape: Sequence[int], size: int, seed: int) -> _Case:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, *sample_shape, generator=generator)
    with torch.no_grad():
        logits = model(image.clone())
    classes = logits.shape[1]
    target = torch.randint(classes, (size,), generator=generator)
    target[::2] = -1
    return _Case(image, torch.where(_near_tie(logits), logits.argmax(1), target), classes)


def _near_tie(logits: Tensor) -> Tensor:
    """Return, per sample, whether rounding may decide which class is predicted: then the target is named instead."""
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.bool)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second <= 1e-5 * logits.abs().amax(1)


def _sessions(files: Mapping[str, Path]) -> list[tuple[str, str, Session]]:
    found = []
    if "torchscript" in files:
        found.append(("torchscript", "float64", open_session(files["torchscript"], "torchscript", double=True)))
        found.append(("torchscript", "float32", open_session(files["torchscript"], "torchscript")))
    if "onnx" in files:
        found.append(("onnxruntime", "float32", open_session(files["onnx"], "onnxruntime")))
    return found


def _accepts(session: Session, image: NDArray[np.floating], target: int) -> bool:
    try:
        session(image, target)
    except Exception:
        return False
    return True


def compare(
    runtime: str,
    dtype: str,
    results: Sequence[Explanation],
    references: Sequence[tuple[Tensor, Tensor, Tensor]],
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
    )


def relative_l2(values: NDArray[np.floating], expected: NDArray[np.floating]) -> list[float]:
    """Return ``|values - expected| / |expected|`` of each sample; 0 where both are zero throughout."""
    errors = []
    for value, reference in zip(values.astype(np.float64), expected.astype(np.float64), strict=True):
        difference, norm = float(np.linalg.norm(value - reference)), float(np.linalg.norm(reference))
        errors.append(difference / norm if norm else (0.0 if difference == 0 else float("inf")))
    return errors


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "worst": float(np.max(values))}
