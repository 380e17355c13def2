"""The proof: run the written files in fresh sessions, on inputs of every kind, beside live autograd.

In float64 the TorchScript file, and the graph that the ONNX file was written from, are compared; in the artifact's own
dtype each runtime as it will be used: alone and in a batch, with a named class and with the predicted one, at other
image sizes where these may vary. Targets out of range must be refused. :mod:`exporter.parity` says what is too far.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from exporter.dynamic import Dimension
from exporter.errors import ArtifactError, UsageError, VerificationFailed
from exporter.network import Network, draw, evaluating
from exporter.parity import AGREEING, SLACK, Parity, Values, compare, least_norms, relative_l2
from exporter.reference import Choose, live
from exporter.runtime import PREDICTED, Explanation, Session, module_session, open_session
from exporter.signature import BATCH, Input, Signature
from exporter.together import together

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
        own = network.signature.inputs
        resized = enumerate(other_sizes(network.signature, dimensions))
        sizes = [*((size, own) for size in batches), *((1 + index % 2, inputs) for index, inputs in resized)]
        trial = _Trial(files, network, method, lowered, seed, sizes)
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
    """Live autograd in one dtype: of the same values, at least as precise as what it judges.

    Attributes:
        references: What it found, for each batch.
        undecided: Of each sample, how many decisions float32 cannot make.
    """

    def __init__(self, network: Network, method: str, dtype: str) -> None:
        self.references: list[Values] = []
        self.undecided: list[int] = []
        self._model = network
        self._method = method
        self._dtype = getattr(torch, dtype)
        self._names = network.signature.attributions

    def __call__(self, inputs: Sequence[Tensor], target: Tensor | Choose) -> Values:
        """Judge a batch, and keep what is found."""
        values, undecided = self._live(inputs, target, count=True)
        self.references.append(values)
        self.undecided += undecided.tolist()
        return values

    def moved(self, inputs: Sequence[Tensor], target: Tensor) -> Values:
        """Judge a batch that is no part of the proof."""
        return self._live(inputs, target, count=False)[0]

    def _live(self, inputs: Sequence[Tensor], target: Tensor | Choose, count: bool) -> tuple[Values, Tensor]:
        given = [x.to(self._dtype) if x.is_floating_point() else x for x in inputs]
        logits, attributions, undecided = live(self._model, given, target, self._method, count=count)
        arrays = (attribution.numpy() for attribution in attributions)
        return Values(logits.numpy(), dict(zip(self._names, arrays, strict=True))), undecided


class _Choice:
    """Chooses a batch's targets from its logits: random classes and the predicted one by turns, over all batches.

    Attributes:
        target: What was chosen, once it was.
    """

    def __init__(self, dtype: str, done: int, generator: torch.Generator) -> None:
        self._dtype = dtype
        self._done = done
        self._generator = generator
        self.target = torch.empty(0, dtype=torch.int64)

    def __call__(self, logits: Tensor) -> Tensor:
        target = torch.randint(logits.shape[1], logits.shape[:1], generator=self._generator)
        target[self._done % 2 :: 2] = PREDICTED
        self.target = torch.where(_near_tie(logits, self._dtype), logits.argmax(1), target)
        return self.target


class _Trial:
    """Sessions on the written files, and what they and the reference returned so far.

    What does not need each other runs at the same time, the longest first; one judge or session never twice.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        network: Network,
        method: str,
        lowered: nn.Module | None,
        seed: int,
        sizes: Sequence[tuple[int, tuple[Input, ...]]],
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
        exact, self._skipped = (None, "") if self._dtype == "float64" else _in_float64(network)
        opened = _openers(files, lowered, network.signature)
        try:
            fault, *sessions, _ = together(
                [
                    lambda: _fault(exact, network.signature),
                    *(opener for *_, opener in opened),
                    lambda: self._judge(sizes),
                ]
            )
        except ArtifactError as error:
            raise VerificationFailed(str(error)) from error
        self._skipped = self._skipped or fault
        if exact is not None and not self._skipped:
            self._judges["float64"] = _Judge(exact, method, "float64")
        self._sessions = [
            (runtime, dtype, session)
            for (runtime, dtype, _), session in zip(opened, sessions, strict=True)
            if not (self._skipped and dtype == "float64")
        ]
        self._results: list[list[Values]] = [[] for _ in self._sessions]
        self._put_through(self._cases)

    def run(self, size: int) -> None:
        """Put one more batch through the reference and through every session."""
        self._judge([(size, self._network.signature.inputs)])
        self._put_through(self._cases[-1:])

    def _judge(self, sizes: Sequence[tuple[int, tuple[Input, ...]]]) -> None:
        """Draw batches, and put each through the reference in the artifact's dtype; its logits choose the targets."""
        for size, inputs in sizes:
            generator = torch.Generator().manual_seed(self._seed + len(self._cases))
            drawn = draw(inputs, size, generator)
            choose = _Choice(self._dtype, sum(len(case.target) for case in self._cases), generator)
            values = self._judges[self._dtype](drawn, choose)
            self._cases.append(_Case(drawn, choose.target, values.logits.shape[1]))

    def _put_through(self, cases: Sequence[_Case]) -> None:
        """Put batches through the reference in float64, where it runs, and through every session."""

        def judged() -> None:
            for case in cases:
                self._judges["float64"](case.inputs, case.target)

        def answered(dtype: str, session: Session) -> list[Values]:
            names = self._network.signature.attributions
            return [
                as_values(session(as_input(session, case.arrays(dtype)), case.target.numpy()), names) for case in cases
            ]

        calls = [partial(answered, dtype, session) for _, dtype, session in self._sessions]
        judge = [judged] * ("float64" in self._judges and self._dtype != "float64")
        for results, found in zip(self._results, together([*calls, *judge]), strict=False):
            results += found

    def parities(self) -> tuple[Parity, ...]:
        """Compare what there is so far; sensitivities are not measured yet."""
        # Undecided comparisons are counted in float64 where that runs: there their operands are known.
        *_, best = self._judges.values()
        return tuple(
            compare(runtime, dtype, results, self._judges[dtype].references, best.undecided)
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
        expected = self._judges[self._dtype].references[place[index][0]]
        chosen = int(expected.logits[row].argmax()) if case.target[row] == PREDICTED else int(case.target[row])
        generator = torch.Generator().manual_seed(index)
        least = least_norms(self._judges[self._dtype].references)
        furthest = 0.0
        for _ in range(NUDGES // 4):
            moved = [_nudged(x[row], NUDGE[self._dtype], generator) for x in case.inputs]
            values = self._judges[self._dtype].moved(moved, torch.full((4,), chosen))
            for name, rows in values.attributions.items():
                own = np.broadcast_to(expected.attributions[name][row], rows.shape)
                furthest = max(furthest, *relative_l2(rows, own, least[name]))
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
        tried = list(itertools.product(self._sessions, rejected, self._cases))
        accepted = together([partial(_accepts, session, case, dtype, bad) for (_, dtype, session), bad, case in tried])
        failures += [
            f"{runtime} {dtype}: target {target} was accepted in a batch of {len(case.target)}, "
            f"but there are {case.classes} classes"
            for ((runtime, dtype, _), target, case), wrong in zip(tried, accepted, strict=True)
            if wrong
        ]
        if failures:
            raise VerificationFailed("not equal to live autograd; nothing was written\n  " + "\n  ".join(failures))
        names = [given.name for given in self._network.signature.inputs]
        *_, best = self._judges.values()
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
                for values in self._judges[self._dtype].references
                for sample in range(len(values.logits))
            ),
            skipped=self._skipped,
            digests=tuple(one for values in best.references for one in digests(values)),
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


def _in_float64(network: Network) -> tuple[Network | None, str]:
    """Return a copy of a network, for float64, or why there is none."""
    try:
        return copy.deepcopy(network), ""
    except Exception as error:  # it may hold what cannot be copied
        return None, _no_float64(error)


def _fault(network: Network | None, signature: Signature) -> str:
    """Convert a network to float64, run it, and return why it does not run; empty if it does, or there is none."""
    try:
        if network is not None:
            network.double()
            with torch.no_grad():
                network(*(_double(x) for x in draw(signature.inputs, 1, torch.Generator())))
    except Exception as error:  # it may pin float32
        return _no_float64(error)
    return ""


def _no_float64(error: Exception) -> str:
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return f"the network does not run in float64: {first}"


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
    return [float(np.linalg.norm(flat)), *(float(value) for value in _directions(flat.size) @ flat)]


@lru_cache(maxsize=2)  # logits and attributions by turns
def _directions(size: int) -> Any:
    directions = np.random.default_rng(size).standard_normal((PROJECTIONS, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions
