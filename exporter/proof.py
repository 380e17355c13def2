"""The proof: run the written files in fresh sessions, on inputs of every kind, beside live autograd.

In float64 the TorchScript file, and the graph that the ONNX file was written from, are compared, in a batch and at each
image size; in the artifact's own dtype each runtime as it will be used: alone and in a batch, with a named class and
with the predicted one, at other image sizes where these may vary. Targets out of range must be refused.
:mod:`exporter.parity` says what is too far.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.errors import ArtifactError, SaliportError, UsageError, VerificationFailed, first_line
from exporter.judge import Case, Judge
from exporter.network import evaluating
from exporter.own_backward import own_backward
from exporter.parity import AGREEING, AMPLIFIED, SLACK, Parity, Values, compare, least_norms, relative_l2, rounding
from exporter.runtime import PREDICTED, Explanation, Session, module_session, open_session
from exporter.signature import Input, Signature
from exporter.together import Step, together

ULPS = 16
"""How far an input is moved to see what rounding can do, which is more than it does: masks are flipped by luck."""

NUDGE = {"float32": ULPS * 2.0**-23, "float16": ULPS * 2.0**-10}
"""The same in units of the input's root mean square."""

NUDGES = 16
"""How often a sample that disagrees is moved at most."""

MOVED_TOGETHER = 4
"""How many samples are moved in one batch."""

MORE_BATCHES = (4, 4, 4)
"""Batches that are tried on top, one by one, while too few samples agree."""

PROJECTIONS = 4
"""How many numbers, beside its norm, a digest keeps of a tensor."""


@dataclass(frozen=True)
class Certificate:
    """What was compared with what, and how far apart it was.

    Attributes:
        reference: What the runtimes were compared with.
        seed: Seed of the random inputs and targets.
        cases: The batches tried through the same file, each as the shape of every input.
        targets: The target of each sample in order, -1 for the predicted class.
        rejected_targets: Targets outside ``[-1, K)`` that every runtime refused.
        zero: How many samples have an attribution that is zero throughout, and so prove little.
        skipped: Why there is no proof in float64, or empty.
        digests: Of each sample and output of live autograd, a norm and projections; see :func:`digest`.
        runtimes: The parity of each runtime.
    """

    reference: str
    seed: int
    cases: tuple[dict[str, list[int]], ...]
    targets: tuple[int, ...]
    rejected_targets: tuple[int, ...]
    zero: int
    skipped: str
    digests: tuple[dict[str, list[float]], ...]
    runtimes: tuple[Parity, ...] = field(default_factory=tuple)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes tried."""
        return tuple(next(iter(case.values()))[0] for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest holds."""
        plain = asdict(self)
        plain["runtimes"] = [parity.summary() for parity in self.runtimes]
        return plain


def prove(files: Mapping[str, Path], judge: Judge, *, lowered: nn.Module | None = None) -> Certificate:
    """Prove that written files compute what live autograd computes.

    Args:
        files: Format -> file: ``torchscript``, ``onnx``, both or none.
        judge: Of the network that they were made from; it is run here.
        lowered: The graph that the ONNX file was written from, to be tried in float64, which onnxruntime cannot. With
            no files, what is proven itself, in the network's dtype too.

    Raises:
        UsageError: A runtime does not compute in the network's dtype.
        VerificationFailed: Some value is out of bounds, or a bad target was accepted; the message lists each.
    """
    with evaluating(judge.network):
        trial = _Trial(files, judge, lowered)
        for size in MORE_BATCHES:
            if trial.enough():
                break
            trial.run(size)
        return trial.certificate()


@dataclass
class _Tried:
    """A runtime that is tried, and what it answered to the cases that it was given.

    Attributes:
        runtime: As :class:`exporter.parity.Parity` calls it.
        dtype: Which it computes in.
        exact: Whether it takes the samples that are tried in float64, or all.
        open: Opens the session that runs.
        results: One for each case.
        accepted: Targets out of range that it answered, and the batch in which the last one was replaced by it.
    """

    runtime: str
    dtype: str
    exact: bool
    open: Step[Session]
    results: list[Values] = field(default_factory=list)
    accepted: list[tuple[int, Case]] = field(default_factory=list)

    def run(self, cases: Sequence[Case], names: Sequence[str]) -> None:
        """Answer batches."""
        for case in cases:
            inputs, target = case.start(case.exactly if self.exact else None)
            self.results.append(as_values(self._answer(inputs, target), names))

    def run_exactly(self, judge: Judge, names: Sequence[str]) -> str:
        """Answer what is tried in float64, or return why it does not.

        The network does not run in float64 itself, which may be known later; or it holds a constant of another dtype.
        """
        try:
            self.run([case for case in judge.targets.result() if case.exactly], names)
        except Exception as error:
            self.results.clear()
            *_, last = str(error).strip().splitlines() or [""]  # TorchScript's first lines are a traceback
            fault = judge.skipped.result()
            if not fault and not _MIXED.search(last):
                raise
            return fault or f"{self.runtime} does not run it in {self.dtype}: {last.removeprefix('RuntimeError: ')}"
        self.try_bad_targets(judge.targets.result())
        fault = judge.skipped.result()
        if fault:
            self.results.clear()
        return fault

    def try_bad_targets(self, cases: Sequence[Case]) -> None:
        """Find out which targets out of range are answered, in batches whose last target is replaced by one."""
        for case in cases:
            for bad in _out_of_range(case):
                target = case.target.clone()
                target[-1] = bad
                with suppress(Exception):
                    self._answer(case.inputs, target)
                    self.accepted.append((bad, case))

    def _answer(self, inputs: Sequence[Tensor], target: Tensor) -> Explanation:
        wanted = getattr(torch, self.dtype)
        arrays = [(x.to(wanted) if x.is_floating_point() else x).numpy() for x in inputs]
        session = self.open.result()
        return session(as_input(session, arrays), target.numpy())


_MIXED = re.compile(r"double.*float|float.*double|dtype to be equal|mixed dtype", re.IGNORECASE)
"""What PyTorch says of operands of two dtypes, such as ``expected scalar type Double but found Float``."""


class _Trial:
    """Sessions on the written files, and what they answered to what was judged so far.

    What does not need each other runs at the same time, the longest first; one session never twice.
    """

    def __init__(self, files: Mapping[str, Path], judge: Judge, lowered: nn.Module | None) -> None:
        signature = judge.network.signature
        self._judge = judge
        self._dtype = signature.dtype
        self._names = signature.attributions
        self._tried = [
            _Tried(runtime, dtype, dtype != self._dtype, Step(opener))
            for runtime, dtype, opener in _openers(files, lowered, signature)
        ]
        exact = [each for each in self._tried if each.exact]
        own = [each for each in self._tried if not each.exact]
        calls: list[Callable[[], Any]] = [judge.targets, *(each.open for each in self._tried), judge.skipped]
        calls += [partial(self._try, each) for each in own]
        try:
            found = together([*calls, *(partial(each.run_exactly, judge, self._names) for each in exact)])
        except ArtifactError as error:
            raise VerificationFailed(str(error)) from error
        self._skipped = next(filter(None, found[len(calls) :]), judge.skipped.result())
        both = [(case.own_of_exact(), case.exact) for case in judge.cases if case.exact is not None]
        self._rounding = rounding(*zip(*both, strict=True)) if both else dict.fromkeys(self._names, 0.0)

    def _try(self, each: _Tried) -> None:
        cases = self._judge.targets.result()
        try:
            each.run(cases, self._names)
        except (SaliportError, VerificationFailed, MemoryError):
            raise
        except Exception as error:
            raise VerificationFailed(
                f"{each.runtime} does not run it in {each.dtype}; nothing was written: {first_line(error)}"
            ) from error
        each.try_bad_targets(cases)

    @property
    def _cases(self) -> list[Case]:
        return self._judge.cases

    def run(self, size: int) -> None:
        """Put one more batch through live autograd and every session, in the artifact's own dtype."""
        case = self._judge.another(size)
        together([partial(each.run, [case], self._names) for each in self._tried if not each.exact])

    def parities(self) -> tuple[Parity, ...]:
        """Compare what there is so far; sensitivities are not measured yet."""
        found = []
        for each in filter(lambda each: each.results, self._tried):
            expected, undecided = [], []
            for case in self._cases:
                values = case.exact if each.exact else case.own
                if values is not None:
                    expected.append(values)
                    undecided += case.undecided[: len(values.logits)]
            moves = dict.fromkeys(self._names, 0.0) if each.exact else self._rounding
            found.append(compare(each.runtime, each.dtype, each.results, expected, undecided, moves))
        return tuple(found)

    def enough(self) -> bool:
        """Tell whether enough samples agree in bulk in the artifact's dtype: a share of all, and one of each kind."""
        sizes = [len(case.target) for case in self._cases for _ in case.target]
        targets = [int(target) for case in self._cases for target in case.target]
        kinds = [
            [size > 1 for size in sizes],
            [target == PREDICTED for target in targets],
            [target != PREDICTED for target in targets],
        ]
        return not AGREEING[self._dtype] or all(
            not (parity.few or parity.alike)
            and all((parity.agrees_in_bulk & kind).any() or not any(kind) for kind in kinds)
            for parity in self.parities()
            if parity.dtype == self._dtype
        )

    def _with_sensitivity(self, parities: Sequence[Parity]) -> tuple[Parity, ...]:
        """Measure the sensitivity of the samples that do not agree; in float64 all must."""
        apart = [
            parity
            for parity in parities
            if parity.dtype != "float64" and not (parity.agrees & parity.logits_agree).all()
        ]
        if not apart:
            return tuple(parities)
        errors = np.array([np.where(parity.agrees, 0.0, parity.relative_l2) for parity in apart])
        of_logits = np.array([np.where(parity.logits_agree, 0.0, parity.logits_relative_l2) for parity in apart])
        moves, logits_move = self._sensitivity(errors.max(0), of_logits.max(0))
        return tuple(
            replace(
                parity,
                sensitivity=tuple(np.where(parity.agrees, 0.0, moves).tolist()),
                logits_sensitivity=tuple(np.where(parity.logits_agree, 0.0, logits_move).tolist()),
            )
            if parity in apart
            else parity
            for parity in parities
        )

    def _sensitivity(
        self, errors: NDArray[np.floating], of_logits: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return how far the reference moves, for each sample, by rounding: as far as it must for an error, if it does.

        It moves from the artifact's dtype to float64; and when the input moves a little, up to :data:`NUDGES` times.
        Logits are continuous: they move in proportion, and count as moved by an ulp.

        Args:
            errors: Of the attribution of each sample; 0 where it agrees.
            of_logits: The same of the logits.
        """
        goals = np.stack([errors, np.where(of_logits > AMPLIFIED, 0.0, of_logits)], 1) / SLACK  # more is never allowed
        moves = _Moves(self._cases, goals)
        generator = torch.Generator().manual_seed(self._judge.seed)

        def nudged(inputs: list[Tensor], target: Tensor) -> Values:
            moved = [torch.stack([_nudged(x, NUDGE[self._dtype], generator) for x in rows]) for rows in inputs]
            return self._judge.moved(moved, target)

        moves.try_out(moves.short[:, 1], self._judge.exactly)
        for _ in range(NUDGES):
            moves.try_out(np.any(moves.short, axis=1), nudged, ULPS)
        moves.try_out(np.any(moves.short, axis=1), self._judge.exactly)
        return moves.seen[:, 0], moves.seen[:, 1]

    def certificate(self) -> Certificate:
        """Judge; raises VerificationFailed."""
        parities = self._with_sensitivity(self.parities())
        failures = [failure for parity in parities for failure in parity.failures()]
        if not failures and not self.enough():
            failures.append(
                "too few samples agree in bulk: none in a batch, none of a named or none of a predicted class"
            )
        failures += [
            f"{each.runtime} {each.dtype}: target {target} was accepted in a batch of {len(case.target)}, "
            f"but there are {case.classes} classes"
            for each in self._tried
            if each.results
            for target, case in each.accepted
        ]
        if failures:
            failures += own_backward(self._judge.network, self._cases[0].inputs)
            raise VerificationFailed("not equal to live autograd; nothing was written\n  " + "\n  ".join(failures))
        names = [given.name for given in self._judge.network.signature.inputs]
        return Certificate(
            reference=f"live autograd, torch {torch.__version__}, method {self._judge.method}",
            seed=self._judge.seed,
            cases=tuple(
                {name: list(x.shape) for name, x in zip(names, case.inputs, strict=True)} for case in self._cases
            ),
            targets=tuple(int(target) for case in self._cases for target in case.target),
            rejected_targets=_out_of_range(self._cases[0]),
            zero=sum(
                int(not any(rows[sample].any() for rows in case.own.attributions.values()))
                for case in self._cases
                for sample in range(len(case.target))
            ),
            skipped=self._skipped,
            digests=tuple(digests(sample) for case in self._cases for sample in case.best),
            runtimes=parities,
        )


def _out_of_range(case: Case) -> tuple[int, int]:
    """Return the targets next to those that there are."""
    return case.classes, PREDICTED - 1


class _Sample:
    """One row of a case."""

    def __init__(self, case: Case, row: int) -> None:
        self.case = case
        self.row = row

    @property
    def inputs(self) -> list[Tensor]:
        return [x[self.row] for x in self.case.inputs]

    @property
    def chosen(self) -> int:
        """The target's class."""
        target = int(self.case.target[self.row])
        return int(self.case.own.logits[self.row].argmax()) if target == PREDICTED else target

    def far_from(self, values: Values, row: int, least: Mapping[str, float]) -> tuple[float, float]:
        """Return the relative L2 distance of a row of other values from what was found here: attribution and logits."""
        attribution = max(
            relative_l2(rows[row : row + 1], self.case.own.attributions[name][self.row, None], least[name])[0]
            for name, rows in values.attributions.items()
        )
        return attribution, relative_l2(values.logits[row, None], self.case.own.logits[self.row, None])[0]


class _Moves:
    """How far live autograd was seen to move, of each sample: the attribution and the logits, in relative L2.

    Attributes:
        seen: ``[samples, 2]``.
    """

    def __init__(self, cases: Sequence[Case], goals: NDArray[np.floating]) -> None:
        """Begin with what was tried in float64 already.

        Args:
            cases: Their samples.
            goals: How far each must move, ``[samples, 2]``; 0 where it need not.
        """
        self._samples = [_Sample(case, row) for case in cases for row in range(len(case.target))]
        self._least = least_norms([case.own for case in cases])
        self._goals = goals
        best = [values for case in cases for values in case.best]
        far = (one.far_from(values, 0, self._least) for one, values in zip(self._samples, best, strict=True))
        self.seen = np.array([*far])

    @property
    def short(self) -> NDArray[np.bool_]:
        """What has not moved as far as it must, ``[samples, 2]``."""
        return (self.seen < self._goals) & np.isfinite(self._goals)

    def try_out(
        self,
        chosen: NDArray[np.bool_],
        run: Callable[[list[Tensor], Tensor], Values | None],
        ulps: int = 1,
    ) -> None:
        """See what is found for samples otherwise: their logits moved by so many ulps; nothing where it is None."""
        for batch in _alike(np.flatnonzero(chosen).tolist(), self._samples):
            given = [self._samples[index] for index in batch]
            inputs = [torch.stack(rows) for rows in zip(*(one.inputs for one in given), strict=True)]
            values = run(inputs, torch.tensor([one.chosen for one in given]))
            if values is None:
                return
            for row, (index, sample) in enumerate(zip(batch, given, strict=True)):
                attribution, logits = sample.far_from(values, row, self._least)
                self.seen[index] = np.maximum(self.seen[index], (attribution, logits / ulps))


def _alike(indices: Sequence[int], samples: Sequence[_Sample]) -> Iterator[list[int]]:
    """Share samples among batches of :data:`MOVED_TOGETHER`, each of one size."""
    by_size: dict[Any, list[int]] = {}
    for index in indices:
        by_size.setdefault(samples[index].case.shapes(), []).append(index)
    for same in by_size.values():
        for start in range(0, len(same), MOVED_TOGETHER):
            yield same[start : start + MOVED_TOGETHER]


def _nudged(x: Tensor, far: float, generator: torch.Generator) -> Tensor:
    """Return a sample moved a little at random; one of whole numbers as it is."""
    if not x.is_floating_point():
        return x
    x = x.float()
    return x + far * x.square().mean().sqrt() * torch.randn(x.shape, generator=generator)


def _openers(
    files: Mapping[str, Path], lowered: nn.Module | None, signature: Signature
) -> list[tuple[str, str, Callable[[], Session]]]:
    """Return (runtime, dtype, what opens a session) for every file, and those that compute the same in float64.

    Those that take longest come first.
    """
    dtype, inputs = signature.dtype, signature.inputs
    found: list[tuple[str, str, Callable[[], Session]]] = []
    if "torchscript" in files:
        opener = partial(open_session, files["torchscript"], "torchscript", inputs)
        if dtype != "float64":
            found.append(("torchscript", "float64", partial(opener, double=True)))
        found.append(("torchscript", dtype, opener))
    if "onnx" in files:
        if lowered is not None:
            found.append(("eager", "float64", lambda: module_session(copy.deepcopy(lowered).double(), inputs)))
        found.append(("onnxruntime", dtype, partial(_onnxruntime, files["onnx"], dtype, inputs)))
    if not files and lowered is not None:
        if dtype != "float64":
            found.append(("eager", "float64", lambda: module_session(copy.deepcopy(lowered).double(), inputs)))
        found.append(("eager", dtype, lambda: module_session(lowered, inputs)))
    return found


def _onnxruntime(path: Path, dtype: str, inputs: Sequence[Input]) -> Session:
    try:
        onnx.checker.check_model(str(path), full_check=True)  # with strict shape inference
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"onnx.checker refuses {path.name}: {error}") from error
    try:
        return open_session(path, "onnxruntime", inputs, threads=torch.get_num_threads())
    except ArtifactError as error:
        if dtype == "float32" or "NOT_IMPLEMENTED" not in str(error):
            raise
        reason = str(error).partition("NOT_IMPLEMENTED : ")[2] or str(error)
        raise UsageError(
            f"--dtype {dtype}: onnxruntime cannot run this network in {dtype} ({reason.strip()}); "
            "write --format torchscript alone, or another dtype"
        ) from error


def as_input(session: Session, arrays: Sequence[Any]) -> Any:
    """Return arrays as a session takes them: one by itself, several by name."""
    return arrays[0] if len(session.inputs) == 1 else dict(zip(session.inputs, arrays, strict=True))


def as_values(explanation: Explanation, names: Sequence[str]) -> Values:
    """Return what a session answered under the names of the artifact's outputs."""
    found = explanation.attribution
    rows = list(found.values()) if isinstance(found, dict) else [found]
    return Values(explanation.logits, dict(zip(names, rows, strict=True)))


def digests(sample: Values) -> dict[str, list[float]]:
    """Return a digest of a sample's logits and of each attribution."""
    return {name: digest(values) for name, values in {"logits": sample.logits, **sample.attributions}.items()}


def digest(values: Any) -> list[float]:
    """Return a tensor's norm, and its products with :data:`PROJECTIONS` fixed random directions of length 1.

    A tensor at distance ``d`` has projections at distance ``d`` at most, so a digest says, without the tensor, how
    far another one is at least; one that differs in a single value is seen with probability 1.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    return [float(np.linalg.norm(flat)), *(float(value) for value in _directions(flat.size) @ flat)]


@lru_cache(maxsize=2)  # logits and attributions by turns
def _directions(size: int) -> Any:
    directions = np.random.default_rng(size).standard_normal((PROJECTIONS, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions
