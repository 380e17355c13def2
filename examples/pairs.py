"""A network of two images: ``--input left:1,32,32 --input right:1,32,32``; each gets its own attribution."""

import torch
import torch.nn.functional as F
from torch import nn


class Pairs(nn.Module):
    """Tells whether two grey images show the same, by the distance of what one trunk makes of each."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 2)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 1, H, W] to vectors [N, 16]."""
        return F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Map two batches of images [N, 1, H, W] to the logits [N, 2] of "different" and "same"."""
        return self.head((self.embed(left) - self.embed(right)).square())


def make_net() -> nn.Module:
    """Return the network."""
    return Pairs()
