"""ResNets for ImageNet: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

Table 1 of the paper, with two choices of torchvision's: shortcuts that change shape are projections (the
paper's option B), and a bottleneck's stride is in its 3x3 convolution instead of its first 1x1. State-dict
keys are those of `torchvision.models.resnet*`.
"""

import torch
from torch import nn

from models.initialization import damp_branches, he_init
from models.registry import IMAGENET, Entry, register


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block: a strided 1x1 convolution, or None where the identity fits."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left): [N, inputs, H, W] -> [N, width, H/s, W/s]."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Build a block from `inputs` channels to `width` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `relu(F(x) + shortcut(x))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        return self.relu(y)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm at the end of the residual branch."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (figure 5, right): [N, inputs, H, W] -> [N, 4 width, ...]."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Build a block from `inputs` channels to `4 * width` channels."""
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `relu(F(x) + shortcut(x))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        return self.relu(y)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm at the end of the residual branch."""
        return self.bn3


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the average over the image, one linear layer.

    The stem and each stage but the first halve the image: 224x224 ends as 7x7.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], num_classes: int, width: int
    ) -> None:
        """Build the network.

        Args:
            block: which residual block.
            depths: the number of blocks in each of the four stages.
            num_classes: the number of logits.
            width: the first stage's width; each later stage doubles it. 64 in the paper.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        def stage(inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
            first = block(inputs, width, stride)
            rest = [block(block.expansion * width, width, 1) for _ in range(depth - 1)]
            return nn.Sequential(first, *rest)

        widths = [width, 2 * width, 4 * width, 8 * width]
        outputs = [block.expansion * w for w in widths]
        self.layer1 = stage(width, widths[0], depths[0], stride=1)
        self.layer2 = stage(outputs[0], widths[1], depths[1], stride=2)
        self.layer3 = stage(outputs[1], widths[2], depths[2], stride=2)
        self.layer4 = stage(outputs[2], widths[3], depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(outputs[3], num_classes)
        he_init(self)
        damp_branches([m.last_norm for m in self.modules() if isinstance(m, BasicBlock | Bottleneck)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, num_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(num_classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-18: 11.7 million parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width)


def resnet34(num_classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-34: 21.8 million parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, width)


def resnet50(num_classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-50: 25.6 million parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width)


def resnet101(num_classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-101: 44.5 million parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width)


def resnet152(num_classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-152: 60.2 million parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, width)


for _factory in (resnet18, resnet34, resnet50, resnet101, resnet152):
    register(
        Entry(
            name=_factory.__name__,
            factory=_factory,
            input_shape=(3, 224, 224),
            source=f"He et al. 2015, arXiv:1512.03385; keys as torchvision.models.{_factory.__name__}",
            preprocessing=IMAGENET,
        )
    )
