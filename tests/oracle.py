"""The judge of the tests: plain autograd, with a method's rule hooked into the backward graph that PyTorch built.

It shares nothing with the package, not even the idea: ``exporter/reference.py`` replaces calls while the model runs,
this runs the model untouched and then changes what the recorded nodes of the backward graph return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

RECTIFIERS = {"ReluBackward0", "HardtanhBackward0", "ThresholdBackward0", "ClampBackward1", "ClampMinBackward0"}
"""Names of the backward graph's nodes that rectifiers leave. A model under test clips nothing but at zero."""

HOOKS: dict[str, Callable[[Any, Any], Any]] = {
    "gradient": lambda inputs, outputs: None,
    "guided": lambda inputs, outputs: (inputs[0].clamp(min=0), *inputs[1:]),
    "deconvnet": lambda inputs, outputs: (outputs[0].clamp(min=0), *inputs[1:]),
}
"""Method -> hook ``(gradients of the rectifier's inputs, of its output) -> replacement of the former``."""


def attribute(model: nn.Module, image: Tensor, target: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Return logits ``[N, K]`` and attribution (the image's shape) of an untouched model in eval mode."""
    leaf = image.clone().requires_grad_()
    logits = model(leaf.clone())
    hooked = 0
    for node in _backward_graph(logits.grad_fn):
        if node.name() in RECTIFIERS:
            node.register_hook(HOOKS[method])
            hooked += 1
    assert hooked, "the model has no rectifier that autograd recorded"
    chosen = torch.where(target < 0, logits.argmax(1), target)
    (attribution,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    return logits.detach(), attribution


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
