"""The proof: run the written files in fresh sessions, on inputs of every kind, beside live autograd.

In float64 the TorchScript file, and the graph that the ONNX file was written from, are compared; in the artifact's own
dtype each runtime as it will be used: alone and in a batch, with a named class and with the predicted one, at other
image sizes where these may vary. Targets out of range must be refused. :mod:`exporter.parity` says what is too far.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from exporter.dynamic import Dimension
from exporter.errors import ArtifactError, UsageError, VerificationFailed
from exporter.network import Network, draw, evaluating
from exporter.parity import AGREEING, SLACK, Parity, Values, compare, relative_l2
from exporter.reference import live
from exporter.runtime import PREDICTED, Explanation, Session, module_session, open_session
from exporter.signature import BATCH, Input, Signature

NUDGE = {"float32": 2.0**-19, "float16": 2.0**-6}
"""How far an input is moved to see what rounding can do, in units of its root mean square: 16 ulps."""

NUDGES = 16
"""How often a sample that disagrees is moved."""

NEAR_TIE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-5}
"""Relative distance of the two largest logits below which rounding may decide the class."""

BATCHES = (1, 3)
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


def prove(
    files: Mapping[str, Path],
    network: Network,
    method: str,
    *,
    dimensions: Sequence[Dimension] = (Dimension(BATCH),),
    lowered: nn.Module | None = None,
    seed: int = 0,
    batches: Sequence[int] = BATCHES,
) -> Certificate:
    """Prove that written files compute what live autograd computes.

    Args:
        files: Format -> file: ``torchscript``, ``onnx`` or both.
        network: The network that they were made from, in the artifact's dtype.
        method: ``guided``, ``gradient`` or ``deconvnet``.
        dimensions: The sizes that may vary.
        lowered: The graph that the ONNX file was written from, to be tried in float64, which onnxruntime cannot.
        seed: Of the inputs (standard normal) and of the targets (predicted and random by turns).
        batches: Batch sizes, each through the same loaded file.

    Raises:
        UsageError: A runtime does not compute in the network's dtype.
        VerificationFailed: Some value is out of bounds, or a bad target was accepted; the message lists each.
    """
    with evaluating(network):
        trial = _Trial(files, network, method, lowered, seed)
        for size in batches:
            trial.run(size)
        for index, inputs in enumerate(other_sizes(network.signature, dimensions)):
            trial.run(1 + index % 2, inputs)
        for size in MORE_BATCHES:
            if trial.enough():
                break
            trial.run(size)
        return trial.certificate()


def other_sizes(signature: Signature, dimensions: Sequence[Dimension]) -> list[tuple[Input, ...]]:
    """Return inputs of other image sizes: a little larger one way, then the other, and the smallest that is allowed.

    The smallest may be too small for a network's kernels, so it is no smaller than half the sample.
    """
    varying = {dimension.name: dimension for dimension in dimensions if dimension.name != BATCH}
    growths = [{name: 1} for name in varying] + [dict.fromkeys(varying, -1)] * bool(varying)
    found = []
    for grow in growths:
        inputs = []
        for given in signature.inputs:
            shape = list(given.shape)
            for axis, name in signature.dynamic_axes(given).items():
                if name in varying:
                    shape[axis - 1] = _another(varying[name], shape[axis - 1], grow.get(name, 0))
            inputs.append(replace(given, shape=tuple(shape)))
        if tuple(inputs) != signature.inputs:
            found.append(tuple(inputs))
    return found


def _another(dimension: Dimension, sample: int, grow: int) -> int:
    """Return a size an odd number of steps above the sample's, or the smallest that is at least half of it."""
    if grow >= 0:
        return sample + grow * dimension.multiple_of * 3
    steps = max(0, -(-(sample // 2 - dimension.min) // dimension.multiple_of))
    return dimension.min + steps * dimension.multiple_of


@dataclass(frozen=True)
class _Case:
    inputs: tuple[Tensor, ...]
    target: Tensor
    classes: int

    def arrays(self, dtype: str) -> list[Any]:
        """Return the inputs, those of floating point in a runtime's dtype."""
        return [(x.to(getattr(torch, dtype)) if x.is_floating_point() else x).numpy() for x in self.inputs]


class _Judge:
    """Live autograd in one dtype: of the same values, at least as precise as what it judges."""

    def __init__(self, network: Network, method: str, dtype: str) -> None:
        self.model = network
        self._method = method
        self._dtype = getattr(torch, dtype)
        self._names = network.signature.attributions

    def __call__(self, inputs: Sequence[Tensor], target: Tensor, count: bool) -> tuple[Values, Tensor]:
        given = [x.to(self._dtype) if x.is_floating_point() else x for x in inputs]
        logits, attributions, undecided = live(self.model, given, target, self._method, count=count)
        arrays = (attribution.numpy() for attribution in attributions)
        return Values(logits.numpy(), dict(zip(self._names, arrays, strict=True))), undecided


class _Trial:
    """Sessions on the written files, and what they and the reference returned so far."""

    def __init__(
        self, files: Mapping[str, Path], network: Network, method: str, lowered: nn.Module | None, seed: int
    ) -> None:
        self._network = network
        self._dtype = network.signature.dtype
        self._method = method
        self._seed = seed
        self._cases: list[_Case] = []
        # PyTorch computes few operators in float16 as onnxruntime does, so the judge of float16 is float32.
        judged_in = "float32" if self._dtype == "float16" else self._dtype
        own = copy.deepcopy(network).float() if self._dtype == "float16" else network
        self._judges = {self._dtype: _Judge(own, method, judged_in)}
        try:
            self._sessions = _sessions(files, lowered, network.signature)
        except ArtifactError as error:
            raise VerificationFailed(str(error)) from error
        self._skipped = ""
        if self._dtype != "float64":
            try:
                exact = copy.deepcopy(network).double()
                exact(*(_double(x) for x in draw(network.signature.inputs, 1, torch.Generator())))
                self._judges["float64"] = _Judge(exact, method, "float64")
            except Exception as error:  # a network may pin float32, or hold what cannot be copied
                first = (str(error).strip() or repr(error)).splitlines()[0]
                self._skipped = f"the network does not run in float64: {first}"
                self._sessions = [session for session in self._sessions if session[1] != "float64"]
        self._references: dict[str, list[Values]] = {dtype: [] for dtype in self._judges}
        self._undecided: list[int] = []
        self._results: list[list[Values]] = [[] for _ in self._sessions]

    def run(self, size: int, inputs: tuple[Input, ...] | None = None) -> None:
        """Put one more batch through the reference and through every session."""
        case = self._case(size, inputs or self._network.signature.inputs)
        self._cases.append(case)
        # Undecided comparisons are counted in float64 where that runs: there their operands are known.
        last = next(reversed(self._judges))
        for dtype, judge in self._judges.items():
            values, undecided = judge(case.inputs, case.target, count=dtype == last)
            self._references[dtype].append(values)
            if dtype == last:
                self._undecided += undecided.tolist()
        names = self._network.signature.attributions
        for (_, dtype, session), results in zip(self._sessions, self._results, strict=True):
            results.append(as_values(session(as_input(session, case.arrays(dtype)), case.target.numpy()), names))

    def _case(self, size: int, inputs: tuple[Input, ...]) -> _Case:
        generator = torch.Generator().manual_seed(self._seed + len(self._cases))
        done = sum(len(case.target) for case in self._cases)
        drawn = draw(inputs, size, generator)
        own = self._judges[self._dtype]
        logits = torch.from_numpy(own(drawn, torch.full((size,), PREDICTED), count=False)[0].logits)
        classes = logits.shape[1]
        target = torch.randint(classes, (size,), generator=generator)
        target[done % 2 :: 2] = PREDICTED  # by turns, over all batches
        return _Case(drawn, torch.where(_near_tie(logits, self._dtype), logits.argmax(1), target), classes)

    def parities(self) -> tuple[Parity, ...]:
        """Compare what there is so far; sensitivities are not measured yet."""
        return tuple(
            compare(runtime, dtype, results, self._references[dtype], self._undecided)
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
            parity.agreeing >= AGREEING[parity.dtype]
            and all((parity.agrees & kind).any() or not any(kind) for kind in kinds)
            for parity in self.parities()
            if AGREEING[parity.dtype]
        )

    def _with_sensitivity(self, parity: Parity) -> Parity:
        """Measure the sensitivity of the samples that do not agree; in float64 all must."""
        if parity.dtype == "float64" or parity.agrees.all():
            return parity
        moves = [
            0.0 if agrees else self._sensitivity(index, error)
            for index, (agrees, error) in enumerate(zip(parity.agrees, parity.relative_l2, strict=True))
        ]
        return replace(parity, sensitivity=tuple(moves))

    def _sensitivity(self, index: int, error: float) -> float:
        """Return how far the reference moves when a sample's input moves by rounding, or far enough for an error."""
        place = [(case, row) for case in range(len(self._cases)) for row in range(len(self._cases[case].target))]
        case, row = self._cases[place[index][0]], place[index][1]
        expected = self._references[self._dtype][place[index][0]]
        chosen = int(expected.logits[row].argmax()) if case.target[row] == PREDICTED else int(case.target[row])
        generator = torch.Generator().manual_seed(index)
        furthest = 0.0
        for _ in range(NUDGES // 4):
            moved = [_nudged(x[row], NUDGE[self._dtype], generator) for x in case.inputs]
            values, _ = self._judges[self._dtype](moved, torch.full((4,), chosen), count=False)
            for name, rows in values.attributions.items():
                own = np.broadcast_to(expected.attributions[name][row], rows.shape)
                furthest = max(furthest, *relative_l2(rows, own))
            if SLACK * furthest >= error:
                break
        return furthest

    def certificate(self) -> Certificate:
        """Judge; raises VerificationFailed."""
        rejected = (self._cases[0].classes, -2)
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
        names = [given.name for given in self._network.signature.inputs]
        *_, best = self._references.values()
        return Certificate(
            reference=f"live autograd, torch {torch.__version__}, method {self._method}",
            seed=self._seed,
            cases=tuple(
                {name: list(x.shape) for name, x in zip(names, case.inputs, strict=True)} for case in self._cases
            ),
            targets=tuple(int(target) for case in self._cases for target in case.target),
            rejected_targets=rejected,
            zero=sum(
                int(not any(rows[sample].any() for rows in values.attributions.values()))
                for values in self._references[self._dtype]
                for sample in range(len(values.logits))
            ),
            skipped=self._skipped,
            digests=tuple(one for values in best for one in digests(values)),
            runtimes=parities,
        )


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _nudged(x: Tensor, far: float, generator: torch.Generator) -> Tensor:
    """Return four copies of a sample, each moved a little at random; of whole numbers, four copies."""
    if not x.is_floating_point():
        return x.expand(4, *x.shape)
    x = x.float()
    noise = torch.randn(4, *x.shape, generator=generator)
    return x + far * x.square().mean().sqrt() * noise


def _near_tie(logits: Tensor, dtype: str) -> Tensor:
    """Return, per sample, whether rounding may decide which class is predicted: then the target is named instead."""
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.bool)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second <= NEAR_TIE[dtype] * logits.abs().amax(1)


def _sessions(
    files: Mapping[str, Path], lowered: nn.Module | None, signature: Signature
) -> list[tuple[str, str, Session]]:
    """Open (runtime, dtype, session) for every file, and those that compute the same in float64."""
    dtype, inputs = signature.dtype, signature.inputs
    found = []
    if "torchscript" in files:
        if dtype != "float64":
            exact = open_session(files["torchscript"], "torchscript", inputs, double=True)
            found.append(("torchscript", "float64", exact))
        found.append(("torchscript", dtype, open_session(files["torchscript"], "torchscript", inputs)))
    if "onnx" in files:
        try:
            onnx.checker.check_model(str(files["onnx"]), full_check=True)  # with strict shape inference
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ArtifactError(f"onnx.checker refuses {files['onnx'].name}: {error}") from error
        if lowered is not None:
            found.append(("eager", "float64", module_session(copy.deepcopy(lowered).double(), inputs)))
        found.append(("onnxruntime", dtype, _onnxruntime(files["onnx"], dtype, inputs)))
    return found


def _onnxruntime(path: Path, dtype: str, inputs: Sequence[Input]) -> Session:
    try:
        return open_session(path, "onnxruntime", inputs)
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


def _accepts(session: Session, case: _Case, dtype: str, target: int) -> bool:
    targets = case.target.numpy().copy()
    targets[-1] = target
    try:
        session(as_input(session, case.arrays(dtype)), targets)
    except Exception:
        return False
    return True


def digests(values: Values) -> list[dict[str, list[float]]]:
    """Return, per sample, a digest of the logits and of each attribution."""
    outputs = {"logits": values.logits, **values.attributions}
    return [{name: digest(rows[sample]) for name, rows in outputs.items()} for sample in range(len(values.logits))]


def digest(values: Any) -> list[float]:
    """Return a tensor's norm, and its products with :data:`PROJECTIONS` fixed random directions of length 1.

    A tensor at distance ``d`` has projections at distance ``d`` at most, so a digest says, without the tensor, how
    far another one is at least; one that differs in a single value is seen with probability 1.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    directions = np.random.default_rng(flat.size).standard_normal((PROJECTIONS, flat.size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return [float(np.linalg.norm(flat)), *(float(value) for value in directions @ flat)]
