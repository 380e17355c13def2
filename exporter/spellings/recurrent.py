"""Spellings of recurrent layers: unrolled, one step after another, for a fixed number of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.spellings.table import aten, spelling


@spelling(aten.lstm.input)
def _lstm(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer by layer, each in one direction or both. x: [T, N, C] or, with ``batch_first``, [N, T, C]."""
    axis = 1 if batch_first else 0
    # A state that nn.LSTM starts from by itself is of float32; of x's dtype, whatever it is when the program runs:
    hidden, cell = (part + x.new_zeros(1) for part in state)
    if hidden.shape[-1] != cell.shape[-1]:
        raise UnsupportedOp("an LSTM with projections (proj_size) has no spelling")
    if not isinstance(x.shape[axis], int):
        raise UnsupportedOp("an LSTM needs a fixed number of steps")
    directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
    last = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            own = weights[index * each : (index + 1) * each]
            output, *end = _run(x, hidden[index], cell[index], own, axis, backwards=direction == 1)
            outputs.append(output)
            last.append(end)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    return x, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


def _run(
    x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor], axis: int, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every step's output along the axis, and the state at the end; arXiv:1402.1128, equations 7 to 11.

    ``i, f, g, o = W x + b + R h + d``; ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``; ``h' = sigmoid(o) tanh(c')``.
    """
    size = c.shape[-1]
    outputs = []
    steps = torch.nn.functional.linear(x, weights[0], weights[2] if len(weights) > 2 else None).unbind(axis)
    for step in reversed(steps) if backwards else steps:
        gates = step + torch.nn.functional.linear(h, weights[1], weights[3] if len(weights) > 2 else None)
        i, f, g, o = torch.split_with_sizes(gates, [size] * 4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs[::-1] if backwards else outputs, axis), h, c
