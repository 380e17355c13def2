"""Parity: how far a runtime's values are from live autograd's, and whether that is far enough to be wrong.

In float64 rounding cannot hide a wrong rule, so every sample must agree to 1e-10. In float32 an attribution is
discontinuous where a rectifier's input is within rounding of zero, or a max-pool's two largest values of each other:
one flipped mask deep in a VGG changes 3 % of the pixels. So a sample may differ, but not by more than live autograd
itself does when its input moves by rounding; in enough samples the bulk of the values must agree outright, for among
the 48 million rectifier inputs of a ResNet-18 on 1024x1024 some flip in every sample, few pixels each; and what differs
must not be the same in all samples, as a border that is wrong would be. Outright is to 1e-5, or where a network makes
more of rounding, to four times of what live autograd in float32 is from itself in float64. So far may the logits of a
sample be off, or as far as they move with an input by an ulp. In float16 masks flip in nearly every sample of a deep
network, so none need agree; there no sample may be off by more than a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-10}
"""Largest relative L2 error that counts as agreement."""

SLACK = 4.0
"""How many times further than live autograd moved a runtime may be: it may flip several masks at once."""

AMPLIFIED = 1e-3
"""Largest relative L2 error that logits, and the bulk of an attribution, may have in any network: they are continuous.

One operator rounds by 6e-8, and as much is what a ResNet-18 makes of it in the bulk of an attribution. But timm's
resnetv2_50d_frn with random weights makes 1e-5 of it in the logits and 5e-5 there, in any implementation.
"""

MOST_FAILURES = 5
"""How many lines of a runtime's failures a report has."""

AGREEING = {"float16": 0.0, "float32": 0.25, "float64": 0.25}
"""Share of the samples that must agree in bulk, whatever the bounds of single samples are."""

BULK = 0.75
"""Share of an attribution's values, those that differ least, that agree where a sample agrees in bulk.

Of those that are not zero in both. A flipped mask changes what its window reaches, and in each sample another does.
"""

SEVERAL = 3
"""In how many samples of one shape what differs at the same places is no coincidence."""

MOST = {"float16": 0.25, "float32": float("inf"), "float64": float("inf")}
"""Largest bound of any sample, however far live autograd moves; the zoo's networks are at 0.03 at most in float16."""

LEAST = float(np.finfo(np.float64).eps) / TOLERANCE["float64"]
"""What an attribution's norm counts as at least, as a share of the largest sample's.

Where an attribution is zero because terms cancel, the order of summation decides between zero and what rounding leaves.
That is float64's epsilon of the terms: agreement, and not infinitely wrong.
"""


class Values(NamedTuple):
    """What a runtime or the reference returned for a batch.

    Attributes:
        logits: ``[N, K]``.
        attributions: By the name of the artifact's output, each of its input's shape.
    """

    logits: NDArray[np.floating]
    attributions: dict[str, NDArray[np.floating]]


def continuous(dtype: str, moves: float) -> float:
    """Return the relative L2 error that what is continuous may have, where live autograd itself moves as far."""
    return max(TOLERANCE[dtype], min(SLACK * moves, AMPLIFIED))


@dataclass(frozen=True)
class Parity:
    """How far one runtime is from live autograd.

    Attributes:
        runtime: ``onnxruntime``, ``torchscript``, or ``eager`` for a module run by PyTorch.
        dtype: ``float16``, ``float32`` or ``float64``.
        relative_l2: ``|a - b| / |b|`` of each sample's attribution, ``|b|`` at least :data:`LEAST` of the largest
            sample's; of several attributions, the largest.
        bulk_l2: Of each attribution, the same with ``a - b`` of the :data:`BULK` alone.
        common_l2: Of each attribution, the same with the least ``a - b`` of all samples at each place, where as many as
            :data:`SEVERAL` have one shape; else 0.
        max_abs: Largest absolute difference of each sample's attribution.
        logits_relative_l2: The same as ``relative_l2`` for the logits.
        undecided: How many comparisons of each sample float32 cannot decide.
        sensitivity: How far live autograd itself moves, in relative L2, when a sample's input moves by rounding, as
            far as it was tried; 0 where the sample agrees.
        logits_sensitivity: The same for the logits, which move in proportion.
        worst: Of each sample, where the attribution differs most, and the two values there.
        rounding: Of each attribution, how far live autograd in this dtype is from itself in float64, as ``bulk_l2``:
            the least of the samples that were tried in both; 0 where none was.
    """

    runtime: str
    dtype: str
    relative_l2: tuple[float, ...]
    bulk_l2: Mapping[str, tuple[float, ...]]
    common_l2: Mapping[str, float]
    max_abs: tuple[float, ...]
    logits_relative_l2: tuple[float, ...]
    undecided: tuple[int, ...]
    sensitivity: tuple[float, ...]
    logits_sensitivity: tuple[float, ...]
    worst: tuple[str, ...]
    rounding: Mapping[str, float]

    @property
    def tolerance(self) -> float:
        """Relative L2 error up to which a sample agrees."""
        return TOLERANCE[self.dtype]

    @property
    def agreeing(self) -> float:
        """Share of the samples within the tolerance."""
        return float(np.mean(self.agrees))

    @property
    def logits_agree(self) -> NDArray[np.bool_]:
        """Of which samples the logits are within the tolerance."""
        return np.asarray(self.logits_relative_l2) <= self.tolerance

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Which samples are within the tolerance."""
        return np.asarray(self.relative_l2) <= self.tolerance

    @property
    def bulk_tolerance(self) -> dict[str, float]:
        """Relative L2 error up to which the bulk of each attribution agrees."""
        return {name: continuous(self.dtype, moves) for name, moves in self.rounding.items()}

    @property
    def agrees_in_bulk(self) -> NDArray[np.bool_]:
        """In which samples the bulk of each attribution is within its tolerance."""
        tolerance = self.bulk_tolerance
        return np.all([np.asarray(errors) <= tolerance[name] for name, errors in self.bulk_l2.items()], axis=0)

    @property
    def few(self) -> bool:
        """Whether fewer samples agree in bulk than must."""
        return float(np.mean(self.agrees_in_bulk)) < AGREEING[self.dtype]

    @property
    def alike(self) -> bool:
        """Whether what differs is the same in all samples, which no flipped mask is; never where none need agree."""
        return bool(self._alike())

    def _alike(self) -> list[str]:
        """Return the names of the attributions of which that is so."""
        tolerance = self.bulk_tolerance
        must_agree = AGREEING[self.dtype] > 0
        return [name for name, error in self.common_l2.items() if must_agree and not error <= tolerance[name]]

    @property
    def bounds(self) -> tuple[float, ...]:
        """Relative L2 error that each sample's attribution may have."""
        slack, least = 0.0 if self.dtype == "float64" else SLACK, max(self.bulk_tolerance.values())
        return tuple(min(max(least, slack * moves), MOST[self.dtype]) for moves in self.sensitivity)

    def failures(self) -> list[str]:
        """Say what is out of bounds; empty where everything is within."""
        found = []
        where = f"{self.runtime} {self.dtype}"
        count, tolerance = len(self.relative_l2), self.bulk_tolerance
        for name in self._alike():
            found.append(
                f"{where}: {name}, all {count} samples differ in the same places, as flipped masks do "
                f"not: relative L2 {self.common_l2[name]:.2e} > {tolerance[name]:.0e}"
            )
        if self.few:
            medians = {name: float(np.median(errors)) for name, errors in self.bulk_l2.items()}
            name = max(medians, key=lambda name: np.nan_to_num(medians[name] / tolerance[name], nan=np.inf))
            found.append(
                f"{where}: {name}, {np.mean(self.agrees_in_bulk):.0%} of {count} samples agree to "
                f"{tolerance[name]:.0e} in {BULK:.0%} of their nonzero values, at least {AGREEING[self.dtype]:.0%} "
                f"must; median {medians[name]:.2e}"
            )
        for index, (error, moves) in enumerate(zip(self.logits_relative_l2, self.logits_sensitivity, strict=True)):
            bound = continuous(self.dtype, 0.0 if self.dtype == "float64" else moves)
            if not error <= bound:
                found.append(f"{where}: logits of sample {index}, relative L2 {error:.2e} > {bound:.0e}")
        for index, (error, bound) in enumerate(zip(self.relative_l2, self.bounds, strict=True)):
            if not error <= bound:
                figures = f"relative L2 {error:.2e} > {bound:.1e}; {self.worst[index]}"
                found.append(f"{where}: attribution of sample {index}, {figures}")
        rest = len(found) - MOST_FAILURES
        return [*found[:MOST_FAILURES], f"{where}: and {rest} more"] if rest > 0 else found

    def summary(self) -> dict[str, Any]:
        """Return the figures for the manifest: median and worst of each measure."""
        return {
            "runtime": self.runtime,
            "dtype": self.dtype,
            "samples": len(self.relative_l2),
            "tolerance": self.tolerance,
            "agreeing": self.agreeing,
            "relative_l2": _spread(self.relative_l2),
            "bulk_l2": _spread(np.max([*self.bulk_l2.values()], axis=0).tolist()),
            "common_l2": max(self.common_l2.values()),
            "max_abs": _spread(self.max_abs),
            "logits_relative_l2": _spread(self.logits_relative_l2),
            "undecided": list(self.undecided),
            "sensitivity": list(self.sensitivity),
            "logits_sensitivity": list(self.logits_sensitivity),
            "rounding": dict(self.rounding),
        }


def compare(
    runtime: str,
    dtype: str,
    results: Sequence[Values],
    references: Sequence[Values],
    undecided: Sequence[int],
    rounding: Mapping[str, float],
) -> Parity:
    """Compare batches of results with live autograd's, sample by sample.

    Args:
        runtime: Where the results come from.
        dtype: Which the runtime computed in.
        results: One for each batch.
        references: What live autograd returned for each batch.
        undecided: How many comparisons of each sample rounding can flip.
        rounding: How far live autograd in this dtype is from itself in float64; see :class:`Parity`.
    """
    attribution: list[float] = []
    max_abs: list[float] = []
    logits: list[float] = []
    worst: list[str] = []
    least = least_norms(references)
    for result, reference in zip(results, references, strict=True):
        logits += relative_l2(result.logits, reference.logits)
        errors = {
            name: relative_l2(result.attributions[name], rows, least[name])
            for name, rows in reference.attributions.items()
        }
        for sample in range(len(reference.logits)):
            name = max(errors, key=lambda name: np.nan_to_num(errors[name][sample], nan=np.inf))
            found, expected = result.attributions[name][sample], reference.attributions[name][sample]
            attribution.append(errors[name][sample])
            max_abs.append(max(_distance(result, reference, sample)))
            worst.append(_worst(name if len(errors) > 1 else "", found, expected))
    return Parity(
        runtime=runtime,
        dtype=dtype,
        relative_l2=tuple(attribution),
        bulk_l2=_bulk_l2(results, references, least),
        common_l2=_common_l2(results, references, least),
        max_abs=tuple(max_abs),
        logits_relative_l2=tuple(logits),
        undecided=tuple(undecided),
        sensitivity=(0.0,) * len(attribution),
        logits_sensitivity=(0.0,) * len(attribution),
        worst=tuple(worst),
        rounding=rounding,
    )


def rounding(found: Sequence[Values], exact: Sequence[Values]) -> dict[str, float]:
    """Return how far live autograd in an artifact's dtype is from itself in float64, in bulk: the least of all samples.

    Args:
        found: What it found in the artifact's dtype.
        exact: What it found for the same samples in float64.
    """
    errors = _bulk_l2(found, exact, least_norms(exact))
    return {name: min(filter(math.isfinite, each), default=0.0) for name, each in errors.items()}


def least_norms(references: Sequence[Values]) -> dict[str, float]:
    """Return what each attribution's norm counts as at least; see :data:`LEAST`."""
    return {
        name: LEAST * max(norm for one in references for norm in _norms(one.attributions[name]))
        for name in references[0].attributions
    }


def _distance(result: Values, reference: Values, sample: int) -> list[float]:
    return [
        float(np.abs(result.attributions[name][sample].astype(np.float64) - rows[sample]).max())
        for name, rows in reference.attributions.items()
    ]


def _worst(name: str, found: NDArray[np.floating], expected: NDArray[np.floating]) -> str:
    """Say where two arrays differ most, and what stands there."""
    place = np.unravel_index(int(np.argmax(np.nan_to_num(np.abs(found - expected), nan=np.inf))), found.shape)
    where = f"worst at {name}{[int(axis) for axis in place]}"
    return f"{where}: {found[place]:.6g}, should be {expected[place]:.6g}"


def relative_l2(
    values: NDArray[np.floating], expected: NDArray[np.floating], least: float = 0.0, share: float = 1.0
) -> list[float]:
    """Return ``|values - expected| / |expected|`` of each sample; 0 where both are zero throughout.

    Args:
        values: ``[N, ...]``.
        expected: The same shape.
        least: What ``|expected|`` counts as at least.
        share: Of the values that are not zero in both, how many ``values - expected`` has: those that differ least.
    """
    errors = []
    for value, own, reference in zip(values.astype(np.float64), _norms(expected), expected, strict=True):
        difference, norm = value - reference, max(own, least)
        if share < 1:
            difference = _smallest(difference[(value != 0) | (reference != 0)], share)
        distance = float(np.linalg.norm(difference))
        errors.append(distance / norm if norm else (0.0 if distance == 0 else float("inf")))
    return errors


def _bulk_l2(
    results: Sequence[Values], references: Sequence[Values], least: Mapping[str, float]
) -> dict[str, tuple[float, ...]]:
    """Return ``relative_l2`` of each attribution and sample over its :data:`BULK`."""
    return {
        name: tuple(
            error
            for result, reference in zip(results, references, strict=True)
            for error in relative_l2(result.attributions[name], reference.attributions[name], norm, BULK)
        )
        for name, norm in least.items()
    }


def _common_l2(results: Sequence[Values], references: Sequence[Values], least: Mapping[str, float]) -> dict[str, float]:
    """Return, of each attribution, the relative L2 of what differs in every sample of a shape; the largest of all.

    Where a border is wrong it is so in each; a mask flips here in the one and there in the other.
    """
    alike: dict[tuple[Any, ...], tuple[int, NDArray[np.floating]]] = {}
    for result, reference in zip(results, references, strict=True):
        for name, rows in reference.attributions.items():
            for found, expected, norm in zip(result.attributions[name], rows, _norms(rows), strict=True):
                scale = max(norm, least[name]) or 1.0
                difference = np.abs(found.astype(np.float64) - expected) / scale
                count, common = alike.get((name, expected.shape), (0, difference))
                alike[name, expected.shape] = count + 1, np.minimum(common, difference)
    found = dict.fromkeys(least, 0.0)
    for (name, _), (count, common) in alike.items():
        found[name] = max(found[name], float(np.linalg.norm(common)) if count >= SEVERAL else 0.0)
    return found


def _smallest(differences: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """Return a share of some values, rounded up: the smallest; NaN is none of them while there are others."""
    count = math.ceil(share * len(differences))
    return np.partition(np.abs(differences), count - 1)[:count] if count else differences


def _norms(rows: NDArray[np.floating]) -> list[float]:
    """Return the Euclidean norm of each sample."""
    return [float(np.linalg.norm(row)) for row in rows.astype(np.float64)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "worst": float(np.max(values))}
