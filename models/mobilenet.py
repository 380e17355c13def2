"""MobileNetV2: Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.

State-dict keys are those of `torchvision.models.mobilenet_v2`.
"""

import torch
from torch import nn

from models.initialization import he_init
from models.registry import IMAGENET, Entry, register

_STAGES = (  # the paper's table 2: expansion t, channels c, blocks n, first stride s
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _channels(count: float) -> int:
    """Round to a multiple of 8, at least 8, and never down by more than a tenth: the reference's rule."""
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * count else rounded + 8


def _conv_bn_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: table 1. [N, inputs, H, W] -> [N, outputs, H/stride, W/stride].

    The projection has no rectifier (a linear bottleneck). The input is added where the shapes agree.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Build a block whose depthwise convolution is `expansion * inputs` channels wide."""
        super().__init__()
        width = expansion * inputs
        expand = [] if expansion == 1 else [_conv_bn_relu6(inputs, width, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu6(width, width, 3, stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `F(x)`, plus `x` where the shapes agree."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, a 1x1 convolution, the average over the image, one linear layer."""

    def __init__(self, num_classes: int, width: float) -> None:
        """Build the network.

        Args:
            num_classes: the number of logits.
            width: the width multiplier of section 4; the last convolution is never narrower than 1280.
        """
        super().__init__()
        inputs = _channels(32 * width)
        layers: list[nn.Module] = [_conv_bn_relu6(3, inputs, 3, stride=2)]
        for expansion, channels, blocks, stride in _STAGES:
            outputs = _channels(channels * width)
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        last = _channels(1280 * max(1.0, width))
        layers.append(_conv_bn_relu6(inputs, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, num_classes]."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2: 3.5 million parameters."""
    return MobileNetV2(num_classes, width)


register(
    Entry(
        name="mobilenet_v2",
        factory=mobilenet_v2,
        input_shape=(3, 224, 224),
        source="Sandler et al. 2018, arXiv:1801.04381; keys as torchvision.models.mobilenet_v2",
        preprocessing=IMAGENET,
    )
)
