"""The experiment that Saliport grew from: ``c * relu(x).sum()`` through ``nn.ReLU``, ``F.relu`` and guided backprop.

For c = +1 all three gradients are equal. For c = -1 the guided one vanishes: nothing argues for the loss. Run eagerly
with autograd, and again from exported TorchScript and ONNX artifacts in which there is no autograd.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import exporter

SEED = 20200910
SHAPE = (3, 5)
VARIANTS = ("nn.ReLU", "F.relu", "guided")
PLACES = ("eager", "torchscript", "onnxruntime")


class GuidedReLU(torch.autograd.Function):
    """Springenberg et al. 2014 as a custom autograd function, for the eager column."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ``max(x, 0)``."""
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return ``g * (x > 0) * (g > 0)``."""
        (x,) = ctx.saved_tensors
        return grads[0] * (x > 0) * (grads[0] > 0)


class Loss(nn.Module):
    """``c * relu(x).sum()`` of each sample, as a network with one class: ``[N, 3, 5] -> [N, 1]``."""

    def __init__(self, c: float, rectify: Callable[[Tensor], Tensor]) -> None:
        """Sum what ``rectify`` lets through, times ``c``."""
        super().__init__()
        self.c = c
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, 3, 5]`` to ``[N, 1]``."""
        return self.c * self.rectify(x).flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Outcome:
    """What one place computed for one sign of c.

    Attributes:
        losses: Of each variant.
        gradients: Of each variant, float32 ``[3, 5]``.
    """

    losses: tuple[float, ...]
    gradients: tuple[np.ndarray, ...]

    @property
    def equalities(self) -> tuple[bool, ...]:
        """``nn.ReLU == F.relu``, ``nn.ReLU == guided``, ``F.relu == guided``."""
        a, b, c = self.gradients
        return np.array_equal(a, b), np.array_equal(a, c), np.array_equal(b, c)


def inputs() -> list[Tensor]:
    """Return three copies of the experiment's input, ``[3, 5]``."""
    torch.manual_seed(SEED)
    x = torch.randn(*SHAPE)
    return [x.clone() for _ in VARIANTS]


def eager(c: float) -> Outcome:
    """Run the experiment with live autograd."""
    losses, gradients = [], []
    for x, rectify in zip(inputs(), (nn.ReLU(), F.relu, GuidedReLU.apply), strict=True):
        x.requires_grad_()
        loss = c * rectify(x).sum()
        loss.backward()
        losses.append(loss.item())
        gradients.append(x.grad.numpy())
    return Outcome(tuple(losses), tuple(gradients))


def exported(c: float, folder: Path) -> dict[str, Outcome]:
    """Export each variant, and run the experiment from the files; returns an outcome for each runtime."""
    variants = ((nn.ReLU(), "gradient"), (F.relu, "gradient"), (nn.ReLU(), "guided"))
    artifacts = [
        exporter.export(Loss(c, rectify), SHAPE, folder / f"{index}", method=method)
        for index, (rectify, method) in enumerate(variants)
    ]
    outcomes = {}
    for runtime in PLACES[1:]:
        results = [
            exporter.load(artifact.folder, runtime)(x.numpy()[None], 0)
            for artifact, x in zip(artifacts, inputs(), strict=True)
        ]
        outcomes[runtime] = Outcome(
            tuple(float(logits[0, 0]) for logits, _ in results), tuple(attribution[0] for _, attribution in results)
        )
    return outcomes


@click.command()
def main() -> None:
    """Print losses, gradients and equalities for c = -1 and c = +1: eager, TorchScript and ONNX side by side."""
    for c in (-1.0, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            outcomes = {"eager": eager(c), **exported(c, Path(folder))}
        click.echo(f"c = {c:+.0f}" + "".join(f"{place:>28}" for place in PLACES).removeprefix(" " * 6))
        for index, variant in enumerate(VARIANTS):
            losses = "".join(f"{outcomes[place].losses[index]:>28.15f}" for place in PLACES)
            click.echo(f"  loss, {variant:<8}{losses.removeprefix(' ' * 10)}")
        for index, variant in enumerate(VARIANTS):
            for row in range(SHAPE[0]):
                cells = "".join(f"{_row(outcomes[place].gradients[index][row]):>28}" for place in PLACES)
                label = f"  gradient, {variant}" if row == 0 else ""
                click.echo(f"{label:<20}{cells.removeprefix(' ' * 4)}")
        for index, pair in enumerate(("nn.ReLU == F.relu", "nn.ReLU == guided", "F.relu == guided")):
            cells = "".join(f"{outcomes[place].equalities[index]!s:>28}" for place in PLACES)
            click.echo(f"  {pair:<18}{cells.removeprefix(' ' * 4)}")
        click.echo()
    click.echo("Guided backprop keeps what argues for the loss: at c = -1 nothing does, in an artifact as in autograd.")


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value + 0.0:4.0f}" for value in values)  # a negative zero prints as zero


if __name__ == "__main__":
    main()
