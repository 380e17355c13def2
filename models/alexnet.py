"""AlexNet, in its one-tower form: Krizhevsky 2014, "One weird trick ...", arXiv:1404.5997.

State-dict keys are those of `torchvision.models.alexnet`.
"""

import torch
from torch import nn

from models.initialization import he_init
from models.registry import IMAGENET, Entry, register


class AlexNet(nn.Module):
    """Five convolutions, three overlapping max-pools (3x3, stride 2), three linear layers."""

    def __init__(self, num_classes: int, hidden: int) -> None:
        """Build the network.

        Args:
            num_classes: the number of logits.
            hidden: the width of the two hidden linear layers. 4096 in the paper.
        """
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, num_classes]; H and W are at least 63."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(num_classes: int = 1000, hidden: int = 4096) -> AlexNet:
    """AlexNet: 61.1 million parameters."""
    return AlexNet(num_classes, hidden)


register(
    Entry(
        name="alexnet",
        factory=alexnet,
        input_shape=(3, 224, 224),
        source="Krizhevsky 2014, arXiv:1404.5997; keys as torchvision.models.alexnet",
        preprocessing=IMAGENET,
    )
)
