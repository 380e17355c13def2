"""A small convolutional network for scikit-learn's 8x8 handwritten digits, and the split of that data set.

The data (`sklearn.datasets.load_digits`) is the test part of "Optical Recognition of Handwritten Digits"
(Alpaydin & Kaynak 1998, UCI): 1797 images, pixels 0 to 16, bright strokes on black.
`scripts/train_digits.py` trains the weights that ship with the zoo.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.initialization import he_init
from models.registry import WEIGHTS, Entry, Preprocessing, register

Indices = npt.NDArray[np.int64]


class DigitsCNN(nn.Module):
    """Three convolutions with batch norm, two max-pools and two linear layers, as modules used once each."""

    def __init__(self, num_classes: int, width: int) -> None:
        """Build the network.

        Args:
            num_classes: the number of logits.
            width: the first convolution's channels; each later one doubles them.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(4 * width * 2 * 2, 4 * width)
        self.relu4 = nn.ReLU()
        self.fc2 = nn.Linear(4 * width, num_classes)
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 1, 8, 8] to logits [N, num_classes]."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.pool3(self.relu3(self.bn3(self.conv3(x))))
        return self.fc2(self.relu4(self.fc1(x.flatten(1))))


def digits_cnn(num_classes: int = 10, width: int = 16) -> DigitsCNN:
    """The digits network: 40 thousand parameters."""
    return DigitsCNN(num_classes, width)


def held_out_split(count: int, held_out: float = 0.2, seed: int = 0) -> tuple[Indices, Indices]:
    """Split `count` samples into those to train on and those to hold out, the same way on every machine.

    Args:
        count: the number of samples.
        held_out: the fraction to hold out.
        seed: seeds `numpy.random.RandomState`, whose stream numpy keeps frozen.

    Returns:
        The training and the held-out indices, both int64, together a permutation of `range(count)`.
    """
    order = np.random.RandomState(seed).permutation(count).astype(np.int64)
    cut = count - round(held_out * count)
    return order[:cut], order[cut:]


register(
    Entry(
        name="digits_cnn",
        factory=digits_cnn,
        input_shape=(1, 8, 8),
        source="trained by scripts/train_digits.py on sklearn.datasets.load_digits; keys are our own",
        weights=WEIGHTS / "digits_cnn.pt",
        classes=tuple("0123456789"),
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,), color="L"),
    )
)
