"""What there is to measure: parts, and the cases of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MODELS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2", "torchvision:densenet121")
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BATCHES = (1, 8)
GROWING_BATCHES = (1, 2, 4, 8, 16)
SIDES = (96, 160, 224, 288, 384)
THREADS = (1, 2)
CUDA_BATCHES = (1, 32)
SIDE = 224
BY_HAND = "resnet18"
"""The network that was written by hand, for images of :data:`SIDE`."""

CUDA_PARTS = ("cuda", "cuda-float32")
"""Those that need a GPU."""

PARTS = {
    "export": "the export by stage, and the files' sizes, against PyTorch's export of the forward pass alone",
    "speed": "all contenders against each other, in one process",
    "by-hand": "resnet18's artifact against the same two passes as a graph that was written by hand",
    "grad-cam": "pytorch-grad-cam, which needs torchvision, with the forward-only session and Captum beside it",
    "session": "each in a process of its own: load time, first calls, peak memory",
    "profile": "onnxruntime's own profile of the artifact, node by node",
    "growth": "the ratio over batch, image side, depth and threads",
    "help": "how long saliport --help takes",
    "cuda": "on a GPU: against eager and torch.compile of live autograd",
    "cuda-float32": "the same without TF32",
}


CPU_PARTS = tuple(part for part in PARTS if part not in CUDA_PARTS)
"""The others, which are what is measured if nothing else is asked for."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        part: One of :data:`PARTS`.
        model: A SPEC of a network, empty where none is measured.
        batch: How many images at once.
        side: Height and width of an image.
        threads: How many a library may use; 0: as many as there are.
        device: ``cpu`` or ``cuda``.
    """

    part: str
    model: str = ""
    batch: int = 1
    side: int = SIDE
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The model's name without the library that it is from."""
        return self.model.rpartition(":")[2]

    def __str__(self) -> str:
        """Say which, in one line."""
        if not self.model:
            return self.part
        where = "a GPU" if self.device == "cuda" else f"{self.threads} thread(s)"
        return f"{self.part}: {self.name}, batch {self.batch}, {self.side}x{self.side}, {where}"

    def to_json(self) -> dict[str, Any]:
        """Return the case as it stands in a record."""
        return asdict(self)


def cases(
    parts: Sequence[str], models: Sequence[str], batches: Sequence[int], threads: Sequence[int], side: int
) -> Iterator[Case]:
    """Yield the cases of some parts, each once."""
    first = threads[0]
    for part in parts:
        if part in ("speed", "grad-cam", "session"):
            yield from (Case(part, model, batch, side, first) for model in models for batch in batches)
        elif part == "by-hand" and BY_HAND in models:
            yield from (Case(part, BY_HAND, batch, SIDE, first) for batch in batches)
        elif part == "export":
            yield from (Case(part, model, 1, side, 0) for model in models)  # with all the threads that there are
        elif part == "profile":
            yield Case(part, models[0], 1, side, first)
        elif part == "growth":
            yield from dict.fromkeys(case for axis in axes(models[0], side, threads).values() for case in axis)
        elif part == "help":
            yield Case(part)
        elif part in CUDA_PARTS:
            yield from (Case(part, model, batch, side, 0, "cuda") for model in models[:2] for batch in CUDA_BATCHES)


def axes(model: str, side: int = SIDE, threads: Sequence[int] = THREADS) -> dict[str, list[Case]]:
    """Return what the growth of cost is measured over: axis -> its cases in order."""
    first = threads[0]
    return {
        "batch": [Case("growth", model, batch, side, first) for batch in GROWING_BATCHES],
        "image side": [Case("growth", model, 1, one, first) for one in SIDES],
        "depth": [Case("growth", one, 1, side, first) for one in (DEPTHS if model in DEPTHS else (model,))],
        "threads": [Case("growth", model, 1, side, count) for count in threads],
    }


VARIES = {"batch": "batch", "image side": "side", "depth": "model", "threads": "threads"}
"""Axis -> the attribute of its cases that varies."""
