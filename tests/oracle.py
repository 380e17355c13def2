"""The judge of the tests: plain autograd, with a method's rule hooked into the backward graph that PyTorch built.

It shares nothing with the package, not even the idea: ``exporter/reference.py`` replaces calls while the model runs,
this runs the model untouched and then changes what the recorded nodes of the backward graph return.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

HOOKS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "gradient": lambda inside, inputs, outputs: (inputs[0] * inside, *inputs[1:]),
    "guided": lambda inside, inputs, outputs: (inputs[0].clamp(min=0) * inside, *inputs[1:]),
    "deconvnet": lambda inside, inputs, outputs: (outputs[0].clamp(min=0), *inputs[1:]),
}
"""Method -> ``(where a clamp's input is inside, gradients of a rectifier's inputs, of its output) -> the former's."""


def attribute(
    model: nn.Module, image: Tensor, target: Tensor, method: str, *, rectified: bool = True
) -> tuple[Tensor, Tensor]:
    """Return logits ``[N, K]`` and attribution (the image's shape) of an untouched model in eval mode.

    Unless it may do without, ``rectified`` sees to it that the model has a rectifier.
    """
    leaf = image.clone().requires_grad_()
    logits = model(leaf.clone())
    hooked = 0
    for node in _backward_graph(logits.grad_fn):
        inside = _rectifies(node)
        if inside is not None:
            node.register_hook(functools.partial(HOOKS[method], inside))
            hooked += 1
    assert hooked or not rectified, "the model has no rectifier that autograd recorded"
    chosen = torch.where(target < 0, logits.argmax(1), target)
    (attribution,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    return logits.detach(), attribution


def _rectifies(node: Any) -> Tensor | bool | None:
    """Tell a rectifier's node of the backward graph from all others, for which this is None.

    True if PyTorch's own derivative is 0 at the bounds; a clamp's is 1 there, so for a clamp this is where its input
    is strictly inside. Autograd does not record the value of ``F.threshold``: a model under test has ``(0, 0)``
    alone, or a threshold other than 0. Nor does this see a rectifier that writes into a part of a tensor.
    """
    match node.name():
        case "ReluBackward0":
            return True
        case "HardtanhBackward0" if node._saved_min_val == 0 < node._saved_max_val:
            return True
        case "ThresholdBackward0" | "ThresholdBackward1" if node._saved_threshold == 0:
            return True
        case "ClampMinBackward0" if node._saved_min == 0:
            return node._saved_self > 0
        case "ClampBackward1" if node._saved_min == 0:
            high = math.inf if node._saved_max is None else node._saved_max
            return (node._saved_self > 0) & (node._saved_self < high) if high > 0 else None
    return None


def _backward_graph(root: Any) -> Iterator[Any]:
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [previous for previous, _ in node.next_functions]


def decided_images(model: nn.Module, count: int, shape: tuple[int, ...]) -> Tensor:
    """Draw inputs ``[count, *shape]`` in which no comparison hangs on float32 rounding.

    Then a difference between two runtimes is a difference between two programs.
    """
    from exporter.reference import live

    found: list[Tensor] = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        image = torch.randn(8, *shape, generator=generator)
        *_, undecided = live(model, image, torch.full((8,), -1), "gradient")
        found += list(image[undecided == 0])
        if len(found) >= count:
            return torch.stack(found[:count])
    raise AssertionError(f"only {len(found)} of {count} decided inputs in 400 draws; use a smaller input")
