"""The networks that are measured."""

from __future__ import annotations

import warnings
from typing import Any

STRENGTH = 0.1
"""Standard deviation of a bias that is drawn."""


def network(spec: str, side: int) -> tuple[Any, tuple[int, ...]]:
    """Build a network by its SPEC, its parameters frozen; with the shape of a sample of this side.

    Biases are drawn where they all are zero, as before any training: PyTorch's export leaves zeros out, and the forward
    pass that everything is held against would be one that no trained network has.
    """
    from exporter.sources import resolve

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what libraries will change one day
        source = resolve(spec)
    model = source.model.eval().requires_grad_(False)
    _draw_biases(model)
    return model, (*source.sample_shape[:-2], side, side)


def _draw_biases(model: Any) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "bias" and not parameter.any():
            parameter.normal_(0, STRENGTH, generator=generator)
