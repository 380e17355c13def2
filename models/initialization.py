"""How untrained networks are initialised: by He et al. 2015, arXiv:1502.01852, residual branches damped."""

import math
from collections.abc import Sequence

from torch import nn


def he_init(network: nn.Module) -> None:
    """Initialise every layer of `network` so that signals keep their scale through rectifiers.

    Weights are normal with variance 2 / n (section 2.2). For a convolution n is the number of outputs that
    one input reaches at stride 1 (equation 14, the backward case: attributions keep their scale), within
    its group: n = k*k for a depthwise layer. For a linear layer n is the number of inputs (equation 10).
    Biases are 0. Batch norms start without a scale or shift of their own.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, math.sqrt(2 / module.in_features))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def damp_branches(norms: Sequence[nn.BatchNorm2d]) -> None:
    """Scale each of B residual branches by 1 / sqrt(B).

    In eval mode an untrained batch norm normalises nothing, so every block would add its branch's variance to
    its shortcut's: ResNet-152's logits would start near 1e7. Branches of variance 1 / B keep the sum's scale
    at any depth (De & Smith 2020, arXiv:2002.10444).

    Args:
        norms: the last batch norm of every branch; changed in place.
    """
    for norm in norms:
        nn.init.constant_(norm.weight, len(norms) ** -0.5)
