"""Small networks that several tests share: what a network may look like beside a chain of layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Siamese(nn.Module):
    """Three inputs of three ranks and two kinds, and the logits deep inside of what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Conv2d(1, 4, 3, padding=1)
        self.ear = nn.Linear(5, 4)
        self.left = nn.Linear(4, 3)  # a module with the name of an input

    def forward(self, left: Tensor, right: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen, heard = F.relu(self.eye(left)).mean((2, 3)), F.relu(self.ear(right))
        return seen, {"scores": self.left(seen * heard * mask), "mask": mask}


class Unet(nn.Module):
    """Halves the image, doubles it again, and joins both: sizes must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        y = F.interpolate(F.relu(self.up(F.max_pool2d(x, 2))), scale_factor=2)
        return self.head((x + y).mean((2, 3)))


class Segmenter(nn.Module):
    """Scores ``[N, K, H, W]`` at the image's own size, under a key, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1))
        return {"out": F.interpolate(y, size=x.shape[-2:], mode="bilinear"), "aux": y}


class Strided(nn.Module):
    """A strided convolution that leaves a rest, an adaptive pool to uneven windows, a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(F.relu(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, (3, 2)).amax((2, 3)))


class Sliced(nn.Module):
    """Slices with a step, averages, mirrors its border, and rolls its rows by a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.pad(x[:, :, ::2, 1::2] + F.avg_pool2d(x, 2), (1, 2, 2, 1), mode="reflect")
        x = torch.cat([x[:, :, 1:], x[:, :, :1]], 2).roll((1, 9), (3, 2))
        return self.head((x * x[:, :, -1:]).mean((2, 3)))


class CeilPooled(nn.Module):
    """Pools in ceil mode, as SqueezeNet and GoogLeNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True).mean((2, 3)))


class Flattened(nn.Module):
    """A linear layer on all pixels: made for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.relu(self.stem(x)), 1))  # the linear layer
