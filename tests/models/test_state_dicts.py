"""The zoo's state dicts have the keys and shapes of the published ones."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

import models

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "state_dicts.json").read_text())
"""Recorded from torchvision and akamaster's checkpoint by tests/data/record_state_dicts.py."""

OUR_OWN = {"mlp", "digits_cnn"}


def test_every_published_network_is_recorded():
    assert set(models.names()) - OUR_OWN == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_layout_is_the_published_one(name):
    with torch.device("meta"):
        network = models.entry(name).factory()
    layout = [(k, list(v.shape)) for k, v in network.state_dict().items() if "num_batches_tracked" not in k]
    assert {
        "parameters": sum(p.numel() for p in network.parameters()),
        "keys": len(layout),
        "sha256": hashlib.sha256(json.dumps(layout).encode()).hexdigest(),
    } == {key: RECORDED[name][key] for key in ("parameters", "keys", "sha256")}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("cifar_resnet20", 0.27), ("cifar_resnet32", 0.46), ("cifar_resnet44", 0.66), ("cifar_resnet56", 0.85)],
)
def test_cifar_parameters_are_those_of_the_papers_table_6(name, millions):
    with torch.device("meta"):
        network = models.entry(name).factory()
    assert math.isclose(sum(p.numel() for p in network.parameters()) / 1e6, millions, abs_tol=0.005)
