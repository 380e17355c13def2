"""VGG networks: Simonyan & Zisserman 2014, arXiv:1409.1556, table 1, configurations A, B, D and E.

The `_bn` variants put a batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167) after every convolution.
State-dict keys are those of `torchvision.models.vgg*`.
"""

import torch
from torch import nn

from models.initialization import he_init
from models.registry import IMAGENET, Entry, register


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, a max-pool after each, and three linear layers.

    Each pool halves the image: 224x224 ends as 7x7, which is what the classifier takes; other sizes are
    averaged or repeated to 7x7.
    """

    def __init__(self, depths: tuple[int, ...], batch_norm: bool, num_classes: int, width: int, hidden: int) -> None:
        """Build the network.

        Args:
            depths: the number of convolutions in each of the five stages.
            batch_norm: whether a batch norm follows each convolution.
            num_classes: the number of logits.
            width: the first stage's channels; the next three stages double it. 64 in the paper.
            hidden: the width of the two hidden linear layers. 4096 in the paper.
        """
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for depth, outputs in zip(depths, (width, 2 * width, 4 * width, 8 * width, 8 * width), strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            layers.append(nn.MaxPool2d(2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, num_classes]; H and W are at least 32."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


_A = (1, 1, 2, 2, 2)
_B = (2, 2, 2, 2, 2)
_D = (2, 2, 3, 3, 3)
_E = (2, 2, 4, 4, 4)


def vgg11(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-11, the paper's configuration A: 132.9 million parameters."""
    return VGG(_A, False, num_classes, width, hidden)


def vgg11_bn(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-11 with batch norm."""
    return VGG(_A, True, num_classes, width, hidden)


def vgg13(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-13, the paper's configuration B: 133.0 million parameters."""
    return VGG(_B, False, num_classes, width, hidden)


def vgg13_bn(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-13 with batch norm."""
    return VGG(_B, True, num_classes, width, hidden)


def vgg16(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-16, the paper's configuration D: 138.4 million parameters."""
    return VGG(_D, False, num_classes, width, hidden)


def vgg16_bn(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-16 with batch norm."""
    return VGG(_D, True, num_classes, width, hidden)


def vgg19(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-19, the paper's configuration E: 143.7 million parameters."""
    return VGG(_E, False, num_classes, width, hidden)


def vgg19_bn(num_classes: int = 1000, width: int = 64, hidden: int = 4096) -> VGG:
    """VGG-19 with batch norm."""
    return VGG(_E, True, num_classes, width, hidden)


for _factory in (vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn):
    register(
        Entry(
            name=_factory.__name__,
            factory=_factory,
            input_shape=(3, 224, 224),
            source=f"Simonyan et al. 2014, arXiv:1409.1556; keys as torchvision.models.{_factory.__name__}",
            preprocessing=IMAGENET,
        )
    )
