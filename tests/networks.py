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


class Signal(nn.Module):
    """What sound and heartbeats are classified by: pools of one axis, overlapping and not, and norms over time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(2, 8, 9, 4, 4), nn.BatchNorm1d(8)
        self.body, self.over_time = nn.Conv1d(8, 8, 3, padding=2, dilation=2), nn.InstanceNorm1d(8, affine=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = F.max_pool1d(F.relu(self.over_time(self.body(x)) + x), 2)
        return self.head(torch.cat([F.adaptive_avg_pool1d(x, 1), F.adaptive_max_pool1d(x, 1)], 1).flatten(1))


class Wave(nn.Module):
    """One number per moment, without a channel, of which parts attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 8, 4)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(F.relu(self.stem(x.unsqueeze(1))).transpose(1, 2)).mean(1))


class Ward(nn.Module):
    """A signal whose length may vary, and features whose number may not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(2, 8, 5), nn.Linear(8 + 5, 3)

    def forward(self, signal: Tensor, features: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.stem(signal)).mean(-1), F.relu(features)], 1))


class Padded(nn.Module):
    """A signal, and a mask as long as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(2, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, signal: Tensor, mask: Tensor) -> Tensor:
        return self.head((F.relu(self.stem(signal)) * mask[:, None]).sum(-1))


class Sequence(nn.Module):
    """Steps that see each other where a mask lets them, and the mean of those that it lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(sequence.shape[1])
        x = self.body(F.relu(self.stem(sequence)), causal)
        return self.head((F.relu(x) * mask[..., None]).sum(1))


class Restored(nn.Module):
    """Halves a signal or a volume and makes it as large again as it was, odd or even."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        transposed = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[axes]
        self.down, self.up = convolution(2, 4, 3, 2, 1), transposed(4, 2, 3, 2, 1, groups=2)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.up(F.relu(self.down(x)), output_size=x.shape[2:])
        return self.head(x.flatten(2).mean(2))


class Volume(nn.Module):
    """Scores each voxel, halves the volume and doubles it again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = (
            nn.Conv3d(1, 4, 3, padding=1),
            nn.ConvTranspose3d(4, 4, 2, 2),
            nn.Conv3d(4, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        return self.head(x + F.relu(self.up(F.max_pool3d(x, 2))))
