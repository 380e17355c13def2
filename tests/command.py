"""Run the command in a test; what a wrong use leaves behind; networks in a file of the user's."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from exporter.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments], catch_exceptions=False)


def snapshot() -> dict[str, bytes | None]:
    """Return every path below the current folder, with the bytes of files."""
    found = sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


NETS = """
import torch
from torch import nn

def tiny():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

def needs(width):
    return nn.Linear(width, 2)

def raises():
    return nn.Linear(-1, "two")

def returns_a_list():
    return [1]

number = 3

def exits():
    raise SystemExit(7)

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.ones(4))
        self.target = nn.Parameter(torch.ones(4))
        self.image_ = nn.Parameter(torch.ones(4))
        self.logits = nn.Linear(4, 3)
    def forward(self, x):
        return self.logits(torch.relu(x * self.image + self.target - self.image_))

class Mixes(nn.Module):
    def forward(self, x):
        return torch.relu(x) - x.mean(0)

class Random(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5)

class Detached(nn.Module):
    def forward(self, x):
        return torch.relu(x.detach())

class NotFinite(nn.Module):
    def forward(self, x):
        return x / 0

class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x.flatten(1)
        return -x.flatten(1)

class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Rolls()
    def forward(self, x):
        return self.inner(x).flatten(1)

class Rolls(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Tuple(nn.Module):
    def forward(self, x):
        return x.flatten(1), x

class Sequence(nn.Module):
    def forward(self, x):
        return x.flatten(2)

class Constant(nn.Module):
    def forward(self, x):
        return torch.ones_like(x.flatten(1))

class Pinned(nn.Module):
    def forward(self, x):
        return x.reshape(1, -1) if x.shape[0] == 1 else x.view(2, -1)

def double():
    return tiny().double()

def loud():
    print("noise of the factory")
    return Loud()

class Loud(nn.Module):
    def forward(self, x):
        print("noise of the network")
        return torch.relu(x.flatten(1))

class Leaves(nn.Module):
    def forward(self, x):
        raise SystemExit(0)

def takes(num_classes, *, depth=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes), nn.ReLU())

def positional(width, /):
    return nn.Linear(width, 2)

def asserts():
    assert False

def nothing():
    pass

def a_class():
    return nn.Linear

network = nn.Linear(4, 2)

def not_a_number():
    net = tiny()
    net[1].weight.data[0, 0] = torch.nan
    return net

def infinite_statistics():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[0].running_var[1] = torch.inf
    return net

def on_meta():
    return nn.Linear(4, 2, device="meta")

def lazy():
    return nn.LazyLinear(2)

def half():
    return tiny().half()

def trained():
    return nn.Sequential(nn.Linear(4, 6), AlwaysTraining(), nn.ReLU(), nn.Linear(6, 3))

class AlwaysTraining(nn.Module):
    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, training=True)

class Vector(nn.Module):
    def forward(self, x):
        return x.flatten(1).sum(1)

class Scalar(nn.Module):
    def forward(self, x):
        return x.sum()

class NoClasses(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :0]

class Dict(nn.Module):
    def forward(self, x):
        return {"out": x.flatten(1)}

class Nothing(nn.Module):
    def forward(self, x):
        return None

class Whole(nn.Module):
    def forward(self, x):
        return x.flatten(1).long()

class Loops(nn.Module):
    def forward(self, x):
        while x.abs().max() > 1e-3:
            x = x / 2
        return x.flatten(1)

class Item(nn.Module):
    def forward(self, x):
        return x.flatten(1) * float(x.max().item())

class Raises(nn.Module):
    def forward(self, x):
        raise ValueError("no forward yet")

class Convolves(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 6 * 6, 2)
    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).flatten(1))

class FrozenPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
    def forward(self, x):
        with torch.no_grad():
            features = self.stem(x)
        return self.head(features)

class Rounds(nn.Module):
    def forward(self, x):
        return x.flatten(1).round()

class Asserts(nn.Module):
    def forward(self, x):
        assert not torch.isnan(
            x).any(), "no number"
        return torch.relu(x.flatten(1))

class TakesDict(nn.Module):
    def forward(self, batch):
        return torch.relu(batch["pixels"])

class AsksDict(nn.Module):
    def forward(self, batch):
        return torch.relu(batch.get("pixels"))

class AsksPart(nn.Module):
    def forward(self, x):
        parts = torch.relu(x)[..., 0]
        return parts.get("pixels")

class Squeezes(nn.Module):
    def forward(self, x):
        return torch.relu(x).squeeze()

class SqueezesScore(nn.Module):
    def forward(self, x):
        return torch.relu(x).sum(1, keepdim=True).squeeze()

class Windows(nn.Module):
    def forward(self, x):
        windows = x.reshape(-1, 2)
        batch = int(windows.shape[0] / (x.shape[1] / 2))
        return torch.relu(windows.view(batch, -1))

class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)
    def forward(self, x):
        lengths = torch.full((x.shape[0],), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.rnn(packed)[1][-1]
"""
