"""Attribution methods: what each one does to the cotangent at a rectifier. Everything else is the chain rule.

For a rectifier ``y = max(x, 0)`` let ``g`` be the cotangent that arrives at ``y``. Springenberg et al. (2014),
figure 1, compare three ways to send it on to ``x``:

    backpropagation    g * (x > 0)              what the forward pass let through
    deconvnet          g * (g > 0)              what argues for the target
    guided             g * (x > 0) * (g > 0)    both

Both comparisons are strict: nothing passes at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Keep = Callable[[Tensor, Tensor], Tensor]
"""``(g, mask) -> g`` where the mask holds, and 0 elsewhere: a product, or :func:`selected`."""


def selected(g: Tensor, mask: Tensor) -> Tensor:
    """Return ``g`` where the mask holds, and 0 elsewhere even if ``g`` is infinite there, as ``0 * inf`` is not."""
    return torch.where(mask, g, 0.0)


def guided(g: Tensor, active: Tensor, keep: Keep = torch.mul) -> Tensor:
    """Guided backpropagation: keep what was active and argues for the target. arXiv:1412.6806, section 3.4."""
    return keep(keep(g, active), g > 0)


def gradient(g: Tensor, active: Tensor, keep: Keep = torch.mul) -> Tensor:
    """The plain gradient: keep what was active. arXiv:1312.6034, section 3."""
    return keep(g, active)


def deconvnet(g: Tensor, active: Tensor, keep: Keep = torch.mul) -> Tensor:
    """The deconvolutional network: keep what argues for the target. arXiv:1311.2901, section 2.1."""
    return keep(g, g > 0)


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        name: As given to ``--method``.
        rule: ``(g, active, keep) -> cotangent of x``; ``active`` is boolean, true where the rectifier passes its input.
        formula: The rule in one line.
        words: The rule in words.
        source: Where the method was published.
    """

    name: str
    rule: Callable[..., Tensor]
    formula: str
    words: str
    source: str


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "guided",
            guided,
            "g * (x > 0) * (g > 0)",
            "a rectifier passes a cotangent back where its input and the cotangent are both positive",
            "Springenberg et al. 2014, Striving for Simplicity, arXiv:1412.6806",
        ),
        Method(
            "gradient",
            gradient,
            "g * (x > 0)",
            "a rectifier passes a cotangent back where its input is positive",
            "Simonyan et al. 2013, Deep Inside Convolutional Networks, arXiv:1312.6034",
        ),
        Method(
            "deconvnet",
            deconvnet,
            "g * (g > 0)",
            "a rectifier passes a cotangent back where the cotangent is positive",
            "Zeiler and Fergus 2013, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901",
        ),
    )
}
