"""A random network is a Python program: what is tested is the text itself, and the text is the reproducer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WHOLE, REAL = "whole", "real"
"""Kinds of networks: all values whole (or whole multiples of a power of two), so that float32 is exact; or any."""

_WEIGHTS = {
    WHOLE: (
        "few[torch.randint(0, max(6, fan_in), value.shape, generator=generator)]",
        "4.0 ** torch.randint(-1, 2, value.shape, generator=generator)",
    ),
    REAL: (
        "torch.rand(value.shape, generator=generator) - 0.5",
        "torch.rand(value.shape, generator=generator) + 0.5",
    ),
}
"""Kind -> expressions for a weight's values and for a running variance."""

_SOURCE = '''\
"""saliport export --model THIS_FILE.py:make --input-shape {shape} --method {method}"""

import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{setup}

    def forward(self, x):
{body}
        return {result}


def make():
    model, generator = Network().eval(), torch.Generator().manual_seed({seed})
    few = torch.zeros(1000)
    few[2:6] = torch.tensor([1.0, 1.0, -1.0, 2.0])
    for name, value in model.state_dict().items():
        fan_in = value.numel() // max(value.shape[:1], default=1)
        if name.endswith("running_var"):
            value.copy_({variance})
        elif value.is_floating_point():
            value.copy_({weight})
    return model
'''


@dataclass(frozen=True)
class Network:
    """A network as text, and what it is asked.

    Attributes:
        kind: ``whole`` or ``real``.
        shape: One input's shape, without the batch.
        setup: The statements of ``__init__``: modules and weights.
        body: The statements of ``forward``; ``x`` is the input.
        result: The expression of the logits ``[N, K]``, or of anything else for a draft.
        method: The attribution method.
        targets: A class for every input, batch by batch; -1 is the predicted one.
        seed: Of the weights and the inputs.
        templates: Names of the templates that wrote the body.
    """

    kind: str
    shape: tuple[int, ...]
    setup: tuple[str, ...]
    body: tuple[str, ...]
    result: str
    method: str = "guided"
    targets: tuple[tuple[int, ...], ...] = ((-1,),)
    seed: int = 0
    templates: tuple[str, ...] = ()

    def source(self) -> str:
        """Return a file that ``saliport export --model FILE.py:make`` understands."""
        weight, variance = _WEIGHTS[self.kind]
        return _SOURCE.format(
            shape=",".join(map(str, self.shape)),
            method=self.method,
            setup=_lines(self.setup),
            body=_lines(self.body),
            result=self.result,
            seed=self.seed,
            weight=weight,
            variance=variance,
        )

    def module(self) -> nn.Module:
        """Run the source, and return the network in eval mode."""
        return make(self.source())

    def images(self) -> list[Tensor]:
        """Return the inputs, batch by batch."""
        generator = torch.Generator().manual_seed(self.seed)
        shapes = [(len(batch), *self.shape) for batch in self.targets]
        if self.kind == WHOLE:
            return [torch.randint(-2, 3, shape, generator=generator).float() for shape in shapes]
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def digest(self) -> str:
        """Return what tells two cases apart."""
        return hashlib.sha256(f"{self.source()}{self.targets}".encode()).hexdigest()[:12]


def make(source: str) -> nn.Module:
    """Run a network's source, and call its factory."""
    scope: dict[str, object] = {"__name__": "network"}
    exec(compile(source, "<network>", "exec"), scope)
    return scope["make"]()  # type: ignore[operator]


def _lines(statements: Sequence[str]) -> str:
    return "\n".join(f"        {statement}" for statement in statements) or "        pass"
