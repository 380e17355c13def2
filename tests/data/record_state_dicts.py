"""Record the key layouts of published state dicts: writes state_dicts.json beside this file.

Needs torchvision, which is not one of the project's dependencies. It imports none of the project's code:
the recording is an oracle. The CIFAR layouts are those of the checkpoint that ships with the zoo.
    python tests/data/record_state_dicts.py

A layout is the ordered list of `[key, shape]`, as JSON, hashed. `num_batches_tracked` is left out:
checkpoints published before PyTorch 0.4.1 lack that counter, and a strict `load_state_dict` fills it in.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
import torchvision

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "models" / "weights" / "cifar_resnet20.th"
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("alexnet", "mobilenet_v2"),
)
CIFAR_DEPTHS = {"cifar_resnet20": 3, "cifar_resnet32": 5, "cifar_resnet44": 7, "cifar_resnet56": 9}

Layout = list[tuple[str, list[int]]]


def layout(state: dict[str, torch.Tensor]) -> Layout:
    """Return a state dict's keys and shapes, in order."""
    return [(key, list(value.shape)) for key, value in state.items() if "num_batches_tracked" not in key]


def summary(entries: Layout, source: str) -> dict[str, int | str]:
    """Return what is recorded of a layout; running statistics are keys but not parameters."""
    parameters = sum(math.prod(shape) for key, shape in entries if ".running_" not in key)
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    return {"parameters": parameters, "keys": len(entries), "sha256": digest, "source": source}


def deepened(entries: Layout, depth: int) -> Iterator[tuple[str, list[int]]]:
    """Repeat the last block of each of ResNet-20's three stages until the stage has `depth` blocks."""
    for prefix, group in groupby(entries, key=lambda entry: ".".join(entry[0].split(".")[:2])):
        block = list(group)
        yield from block
        if prefix in {"layer1.2", "layer2.2", "layer3.2"}:
            for i in range(3, depth):
                yield from ((key.replace(prefix, f"{prefix[:-1]}{i}"), shape) for key, shape in block)


def main() -> None:
    """Write the recording."""
    record = {}
    for name in TORCHVISION:
        with torch.device("meta"):
            state = getattr(torchvision.models, name)().state_dict()
        record[name] = summary(layout(state), f"torchvision {torchvision.__version__.partition('+')[0]}")
    trained = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")["state_dict"]
    resnet20 = layout({key.removeprefix("module."): value for key, value in trained.items()})
    for name, depth in CIFAR_DEPTHS.items():
        source = "akamaster/pytorch_resnet_cifar10, resnet20-12fca82f.th"
        if depth > 3:
            source += f", the last block of each stage repeated to {depth} blocks"
        record[name] = summary(list(deepened(resnet20, depth)), source)
    (HERE / "state_dicts.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
