"""The judge: what live autograd answers to batches of every kind.

A batch alone and one of several, at each image size that may vary, with a named class and with the predicted one; in
the artifact's own dtype, and for some samples in float64. :mod:`exporter.proof` puts the written files beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporter.errors import first_line
from exporter.network import Network, copied, draw
from exporter.parity import Values
from exporter.reference import Choose, live
from exporter.runtime import PREDICTED
from exporter.signature import BATCH, NEAR, Dimension, Input, Signature
from exporter.together import Step

NEAR_TIE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-5}
"""Relative distance of the two largest logits below which rounding may decide the class."""

BATCHES = (1, 3)
"""Batches that are tried."""

EXACTLY = 2
"""How many samples of the largest batch are tried in float64 too: one of a named and one of the predicted class."""


@dataclass
class Case:
    """One batch, and what live autograd finds for it.

    Attributes:
        inputs: What is drawn.
        target: What the logits of ``own`` let choose.
        own: Found in the artifact's dtype.
        undecided: How many decisions of each sample float32 cannot make; counted in float64 where that is tried, for
            there their operands are known.
        exactly: How many samples, the first ones, are tried in float64 too.
        exact: Found for them in float64.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    own: Values
    undecided: list[int]
    exactly: int = 0
    exact: Values | None = None

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.own.logits.shape[1])

    @property
    def best(self) -> list[Values]:
        """What live autograd finds for each sample, a batch of one, in the widest dtype tried."""
        exact = [] if self.exact is None else _rows(self.exact)
        return [*exact, *_rows(self.own)[len(exact) :]]

    def own_of_exact(self) -> Values:
        """Return what was found in the artifact's dtype for the samples that are tried in float64 too."""
        attributions = {name: rows[: self.exactly] for name, rows in self.own.attributions.items()}
        return Values(self.own.logits[: self.exactly], attributions)

    def start(self, count: int | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the inputs and targets of the first samples, or of all."""
        return tuple(x[:count] for x in self.inputs), self.target[:count]

    def shapes(self) -> tuple[torch.Size, ...]:
        """Return the shape of a sample of every input."""
        return tuple(x.shape[1:] for x in self.inputs)


def _rows(values: Values) -> list[Values]:
    """Return the samples of a batch, each as a batch of one."""
    return [
        Values(values.logits[row, None], {name: rows[row, None] for name, rows in values.attributions.items()})
        for row in range(len(values.logits))
    ]


class Judge:
    """Live autograd on a network, and what it found so far.

    It works in two steps, beside the sessions on the written files, which wait for what they need of them. The network
    must be in eval mode.

    Attributes:
        network: The network.
        method: ``guided``, ``gradient`` or ``deconvnet``.
        seed: Of the inputs, standard normal, and of the targets, predicted and random by turns.
        cases: The batches judged so far.
        targets: Judges what is planned in the artifact's dtype, where the logits choose the targets; returns the cases.
        skipped: Judges their first samples in float64; returns why it does not, or nothing.
    """

    def __init__(
        self,
        network: Network,
        method: str,
        *,
        dimensions: Sequence[Dimension] = (Dimension(BATCH),),
        seed: int = 0,
        batches: Sequence[int] = BATCHES,
        skip: str = "",
    ) -> None:
        """Plan.

        Args:
            network: The network, in the artifact's dtype.
            method: ``guided``, ``gradient`` or ``deconvnet``.
            dimensions: The sizes that may vary.
            seed: Of the inputs and targets.
            batches: Batch sizes.
            skip: Why nothing is tried in float64, where that is known beforehand.
        """
        own = network.signature.inputs
        resized = enumerate(other_sizes(network.signature, dimensions))
        self._plan = [
            *((size, own, min(size, EXACTLY) if size == max(batches) else 0) for size in batches),
            *((1 + index % 2, inputs, 1 + index % 2) for index, inputs in resized),
        ]
        self.network = network
        self.method = method
        self.seed = seed
        self.cases: list[Case] = []
        self._skip = skip
        self._dtype = network.signature.dtype
        self._own: _Autograd | None = None
        self._exact: Network | Exception | None = None
        self._twin: _Autograd | None = None
        self.targets = Step(self._judge_planned)
        self.skipped = Step(self._judge_exactly)

    def another(self, size: int) -> Case:
        """Judge one more batch, in the artifact's dtype alone."""
        return self._judge(size, self.network.signature.inputs, 0)

    def exactly(self, inputs: Sequence[Tensor], target: Tensor) -> Values | None:
        """Return what is found for other inputs in float64; None where the network does not run in it."""
        if self._dtype == "float64" or self.skipped.result():
            return None
        if self._twin is None:
            self._twin = _Autograd(copied(self.network).double(), self.method, "float64", twin=True)
        values, _ = self._twin(inputs, target, count=False)
        return values

    def moved(self, inputs: Sequence[Tensor], target: Tensor) -> Values:
        """Return what is found for other inputs, with these targets, in the artifact's dtype."""
        values, _ = self._autograd()(inputs, target, count=False)
        return values

    def _judge(self, size: int, inputs: tuple[Input, ...], exactly: int) -> Case:
        """Draw a batch, and put it through autograd in the artifact's dtype."""
        generator = torch.Generator().manual_seed(self.seed + len(self.cases))
        drawn = draw(inputs, size, generator)
        choose = _Choice(self._dtype, sum(len(case.target) for case in self.cases), generator)
        values, undecided = self._autograd()(drawn, choose)
        exactly = 0 if self._dtype == "float64" or self._skip else exactly
        self.cases.append(Case(drawn, choose.target, values, undecided, exactly))
        return self.cases[-1]

    def _judge_planned(self) -> list[Case]:
        if self._dtype != "float64" and not self._skip:
            try:  # before the network runs: what it may keep of a run with gradients is copied in few places
                self._exact = copied(self.network).double()
            except Exception as error:
                self._exact = error
        return [self._judge(*planned) for planned in self._plan]

    def _judge_exactly(self) -> str:
        cases = [case for case in self.targets.result() if case.exactly]
        exact, self._exact = self._exact, None
        try:
            if isinstance(exact, Exception):
                raise exact
            for case in cases:
                assert exact is not None
                case.exact, undecided = _Autograd(exact, self.method, "float64", twin=True)(*case.start(case.exactly))
                case.undecided[: case.exactly] = undecided
        except Exception as error:  # it may pin float32
            for case in cases:
                case.exact = None
            return f"the network does not run in float64: {first_line(error.__cause__ or error)}"
        return self._skip

    def _autograd(self) -> _Autograd:
        if self._own is None:
            # PyTorch computes few operators in float16 as onnxruntime does, so the judge of float16 is float32.
            half = self._dtype == "float16"
            network = copied(self.network).float() if half else self.network
            self._own = _Autograd(network, self.method, "float32" if half else self._dtype)
        return self._own


class _Autograd:
    """Live autograd in one dtype: of the same values, at least as precise as what it judges."""

    def __init__(self, network: Network, method: str, dtype: str, *, twin: bool = False) -> None:
        self._twin = twin
        self._model = network
        self._method = method
        self._dtype = getattr(torch, dtype)
        self._names = network.signature.attributions

    def __call__(
        self, inputs: Sequence[Tensor], target: Tensor | Choose, count: bool = True
    ) -> tuple[Values, list[int]]:
        """Return the values of a batch, and how many decisions of each sample float32 cannot make."""
        given = [x.to(self._dtype) if x.is_floating_point() else x for x in inputs]
        logits, attributions, undecided = live(self._model, given, target, self._method, count=count, twin=self._twin)
        arrays = (attribution.numpy() for attribution in attributions)
        return Values(logits.numpy(), dict(zip(self._names, arrays, strict=True))), undecided.tolist()


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


def _near_tie(logits: Tensor, dtype: str) -> Tensor:
    """Return, per sample, whether rounding may decide which class is predicted: then the target is named instead."""
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.bool)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second <= NEAR_TIE[dtype] * logits.abs().amax(1)


def other_sizes(signature: Signature, dimensions: Sequence[Dimension]) -> list[tuple[Input, ...]]:
    """Return inputs of other image sizes: a little larger one way, then the other, and the smallest that is allowed.

    The smallest may be too small for a network's kernels, so it is no smaller than half the sample. Where there is a
    largest, it is tried too if it is no larger than twice the sample.
    """
    varying = {dimension.name: dimension for dimension in dimensions if dimension.name != BATCH}
    changes: list[Mapping[str, Callable[[Dimension, int], int]]] = [{name: _larger} for name in varying]
    changes += [dict.fromkeys(varying, _smallest), dict.fromkeys(varying, _largest)]
    found: list[tuple[Input, ...]] = []
    for change in changes:
        inputs = []
        for given in signature.inputs:
            shape = list(given.shape)
            for axis, name in signature.dynamic_axes(given).items():
                if name in change:
                    shape[axis - 1] = change[name](varying[name], shape[axis - 1])
            inputs.append(replace(given, shape=tuple(shape)))
        if tuple(inputs) not in (signature.inputs, *found):
            found.append(tuple(inputs))
    return found


def _larger(dimension: Dimension, sample: int) -> int:
    """Return a size an odd number of steps above the sample's, or the largest."""
    larger = sample + dimension.multiple_of * 3
    return larger if dimension.max is None else min(larger, dimension.max)


def _smallest(dimension: Dimension, sample: int) -> int:
    """Return the smallest size that is at least half the sample's."""
    steps = max(0, -(-(sample // 2 - dimension.min) // dimension.multiple_of))
    return dimension.min + steps * dimension.multiple_of


def _largest(dimension: Dimension, sample: int) -> int:
    """Return the largest size, or the sample's own where it is far above."""
    return sample if dimension.max is None or dimension.max > NEAR * sample else dimension.max
