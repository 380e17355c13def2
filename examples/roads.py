"""A segmentation network: scores at every pixel, under a key, for images of any even size."""

import torch
import torch.nn.functional as F
from torch import nn


class Roads(nn.Module):
    """Labels each pixel of an RGB image as road, building or field, in the way of a U-Net."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, 3, H, W] to scores [N, 3, H, W]."""
        fine = F.relu(self.down(x))
        coarse = F.relu(self.deep(F.max_pool2d(fine, 2)))
        return {"out": self.head(torch.cat([fine, self.up(coarse)], dim=1))}


def make_net() -> nn.Module:
    """Return the network."""
    return Roads()
