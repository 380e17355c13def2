"""Compare the zoo's logits with torchvision's, for the same weights: prints a table, exits 1 on a difference.

Needs torchvision, which is not one of the project's dependencies, so this is no test; run it by hand from the
repository root after a change to a network:
    PYTHONPATH=. python tests/data/compare_with_torchvision.py
"""

import sys

import torch
import torchvision
from torch import nn

import models


def randomize_batch_norms(network: nn.Module) -> None:
    """Give every batch norm scales and statistics that a wrong wiring could not hide behind."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@torch.inference_mode()
def main() -> int:
    """Compare every zoo network that torchvision has too."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    equal = True
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    for name in models.names():
        if not hasattr(torchvision.models, name):
            continue
        theirs = getattr(torchvision.models, name)().eval()
        randomize_batch_norms(theirs)
        ours = models.entry(name).factory().eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        errors = []
        for size in (224, 96):
            x = torch.randn(1, 3, size, size)
            expected = theirs(x)
            errors.append(float((ours(x) - expected).norm() / expected.norm()))
        print(f"{name:14} relative L2 of the logits: {errors[0]:.1e} at 224x224, {errors[1]:.1e} at 96x96")
        equal &= all(error <= 1e-6 for error in errors)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
