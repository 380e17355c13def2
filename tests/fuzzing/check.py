"""Puts a random network the whole way through the package, and compares all that comes out with live autograd."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import exporter
from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.lowering import DEFAULT_TARGET, TARGETS
from exporter.methods import METHODS
from exporter.pipeline import write
from exporter.program import Program, to_module
from exporter.reference import live
from exporter.runtime import RUNTIMES, open_session
from tests.fuzzing.network import WHOLE, Network
from tests.oracle import attribute

CLOSE = 1e-10
"""Largest relative L2 error in float64, as in ``exporter/parity.py``."""

REFERENCE = "the reference"

Answer = tuple[Tensor, Tensor]
Run = Callable[[Tensor, Tensor], Answer]


class Disagreement(AssertionError):
    """A network whose artifact does not compute what autograd computes, or cannot be made."""


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Attributes:
        refused: The message, where the package refuses the network; else empty.
        operators: The ATen operators of its canonical forward pass.
    """

    refused: str
    operators: Counter[str]


def check(network: Network) -> Outcome:
    """Compare every runtime with live autograd.

    Raises:
        Disagreement: Something differs, or failed in another way than by a refusal; the message says what, where, and
            ends with the network's source.
    """
    operators: Counter[str] = Counter()
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            compare = _compare_whole if network.kind == WHOLE else _compare_real
            compare(network, Path(folder), operators)
    except exporter.UnsupportedModel as error:
        return Outcome(str(error), operators)
    except Disagreement as error:
        raise Disagreement(_report(network, str(error))) from None
    except Exception as error:
        raise Disagreement(_report(network, f"{type(error).__name__}: {error}")) from error
    return Outcome("", operators)


def operators_of(network: Network) -> Counter[Any]:
    """Return the operators of a network's canonical forward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = canonicalize(capture(network.module(), torch.cat(network.images())))
    return _operators(program)


def _operators(program: Program) -> Counter[Any]:
    return Counter(node.target for node in program.graph.nodes if node.op == "call_function")


def _compare_whole(network: Network, folder: Path, operators: Counter[str]) -> None:
    """To the bit, but that ``-0.0`` equals ``0.0``.

    Which of the two a sum of nothing but zeros is, depends on how many there are: a convolution over padding and one
    without differ. No comparison, and so no rule, can tell them apart.
    """
    model = network.module()
    cases = list(zip(network.images(), map(torch.tensor, network.targets), strict=True))
    program = canonicalize(capture(model, cases[0][0]))
    operators.update({str(op): count for op, count in _operators(program).items()})
    explicit = differentiate(program, METHODS[network.method])
    runs: dict[str, Run] = {REFERENCE: _reference(model, network.method), "eager": to_module(explicit)}
    files = {"torchscript": ("torchscript", {})}
    targets = dict.fromkeys([DEFAULT_TARGET, *(TARGETS[(network.seed + turn) % len(TARGETS)] for turn in (0, 1))])
    files |= {f"onnxruntime, optimized for {one}": ("onnxruntime", {"optimize_for": one}) for one in targets}
    for what, (runtime, options) in files.items():
        path = folder / what
        lowered = write(explicit, RUNTIMES[runtime], path, **options)
        runs[f"eager, lowered as for {what}"] = to_module(lowered)
        runs[what] = _session(path, runtime)
    for image, target in cases:
        wanted = attribute(model, image, target, network.method, rectified=False)
        for name, run in runs.items():
            with torch.set_grad_enabled(name == REFERENCE):
                found = run(image.clone(), target)
            for what, ours, theirs in zip(("logits", "attribution"), found, wanted, strict=True):
                if ours.shape != theirs.shape or not (ours == theirs).all():
                    raise Disagreement(f"{name}, batch of {len(image)}: {what}\n{_difference(ours, theirs)}")


def _reference(model: torch.nn.Module, method: str) -> Run:
    """Return the package's own judge, which must agree with the tests' as everything else does."""

    def run(image: Tensor, target: Tensor) -> Answer:
        logits, (attribution,), _ = live(model, image, target, method, count=False)
        return logits, attribution

    return run


def _compare_real(network: Network, folder: Path, operators: Counter[str]) -> None:
    """By the package's own proof, for a target that the seed chooses; in float64 with a judge that it does not know."""
    model = network.module()
    program = canonicalize(capture(model, network.images()[0]))
    operators.update({str(op): count for op, count in _operators(program).items()})
    settings = {"method": network.method, "seed": network.seed, "optimize_for": TARGETS[network.seed % len(TARGETS)]}
    artifact = exporter.export(model, network.shape, folder / "artifact", **settings)
    session = _session(artifact.file("torchscript"), "torchscript", double=True)
    exact = network.module().double()
    for image, targets in zip(network.images(), network.targets, strict=True):
        target, image = torch.tensor(targets), image.double()
        found, wanted = session(image, target), attribute(exact, image, target, network.method, rectified=False)
        # what explains less of the logits than their rounding is zero: a group norm's values have a constant sum
        rounding = torch.finfo(torch.float64).eps * wanted[0].norm() / image.norm()
        for what, ours, theirs in zip(("logits", "attribution"), found, wanted, strict=True):
            if not (ours - theirs).norm() <= max(CLOSE * theirs.norm(), rounding):
                raise Disagreement(f"torchscript in float64: {what}\n{_difference(ours, theirs)}")


def _session(path: Path, runtime: str, double: bool = False) -> Run:
    session = open_session(path, runtime, threads=1, double=double)

    def run(image: Tensor, target: Tensor) -> Answer:
        logits, attribution = session(image.numpy(), target.numpy())
        return torch.from_numpy(logits), torch.from_numpy(attribution)

    return run


def _difference(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)}, autograd's {list(theirs.shape)}"
    places = (ours != theirs).nonzero()
    first = tuple(places[0].tolist())
    return f"{len(places)} of {ours.numel()} values; at {first}: {ours[first]:.9g}, autograd's {theirs[first]:.9g}"


def _report(network: Network, message: str) -> str:
    return f"{message}\n\n{network.source()}\n# targets {network.targets}"
