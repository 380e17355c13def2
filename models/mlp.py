"""A multilayer perceptron with rectifiers: Glorot et al. 2011, "Deep Sparse Rectifier Neural Networks"."""

import torch
from torch import nn

from models.initialization import he_init
from models.registry import Entry, Preprocessing, register


class MLP(nn.Module):
    """Three linear layers over the flattened input."""

    def __init__(self, inputs: int, hidden: tuple[int, int], num_classes: int) -> None:
        """Build the network.

        Args:
            inputs: the number of values in one sample.
            hidden: the widths of the two hidden layers.
            num_classes: the number of logits.
        """
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], num_classes)
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map samples [N, ...] of `inputs` values each to logits [N, num_classes]."""
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        return self.fc3(x)


def mlp(num_classes: int = 10, inputs: int = 28 * 28, hidden: tuple[int, int] = (256, 128)) -> MLP:
    """784-256-128-10, for 28x28 grey images: 0.24 million parameters."""
    return MLP(inputs, hidden, num_classes)


register(
    Entry(
        name="mlp",
        factory=mlp,
        input_shape=(1, 28, 28),
        source="Glorot et al. 2011, AISTATS; keys are our own",
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,), color="L"),
    )
)
