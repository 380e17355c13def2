"""ResNets for CIFAR-10: He et al. 2015, arXiv:1512.03385, section 4.2.

State-dict keys are those of akamaster/pytorch_resnet_cifar10, whose trained ResNet-20 ships with the zoo
(91.78 % top-1 on CIFAR-10's test images, by its author's figures).
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.initialization import damp_branches, he_init
from models.registry import IMAGENET, WEIGHTS, Entry, register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes, in the order of its labels."""


class SubsampleAndPad(nn.Module):
    """The paper's option A, a shortcut without parameters: every second row and column, channels of zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build a shortcut from `inputs` to `outputs` channels; as many zeros go before as after."""
        super().__init__()
        self.padding = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inputs, H, W] to [N, outputs, ceil(H/2), ceil(W/2)]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, inputs, H, W] -> [N, width, H/stride, W/stride]."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Build a block from `inputs` channels to `width` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 else SubsampleAndPad(inputs, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `relu(F(x) + shortcut(x))`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """One convolution, three stages of residual blocks, the average over the image, one linear layer."""

    def __init__(self, depth: int, num_classes: int, width: int) -> None:
        """Build the network.

        Args:
            depth: blocks in each of the three stages; the network has `6 * depth + 2` weighted layers.
            num_classes: the number of logits.
            width: the first stage's channels; each later stage doubles them. 16 in the paper.
        """
        super().__init__()

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            rest = [Block(outputs, outputs, 1) for _ in range(depth - 1)]
            return nn.Sequential(Block(inputs, outputs, stride), *rest)

        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, stride=1)
        self.layer2 = stage(width, 2 * width, stride=2)
        self.layer3 = stage(2 * width, 4 * width, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        he_init(self)
        damp_branches([m.bn2 for m in self.modules() if isinstance(m, Block)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def cifar_resnet20(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-20: 0.27 million parameters."""
    return CifarResNet(3, num_classes, width)


def cifar_resnet32(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-32: 0.46 million parameters."""
    return CifarResNet(5, num_classes, width)


def cifar_resnet44(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-44: 0.66 million parameters."""
    return CifarResNet(7, num_classes, width)


def cifar_resnet56(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-56: 0.85 million parameters."""
    return CifarResNet(9, num_classes, width)


for _factory in (cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56):
    register(
        Entry(
            name=_factory.__name__,
            factory=_factory,
            input_shape=(3, 32, 32),
            source="He et al. 2015, arXiv:1512.03385, section 4.2; keys as akamaster/pytorch_resnet_cifar10",
            weights=WEIGHTS / "cifar_resnet20.th" if _factory is cifar_resnet20 else None,
            classes=CLASSES,
            preprocessing=IMAGENET,
        )
    )
