"""``scripts/sweep.py``: what it covers, and what it makes of networks that work, are refused, die, or never end."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep.py"


def _sweep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its processes look for its functions
    sys.path.append(str(SCRIPT.parent))
    spec.loader.exec_module(module)
    return module


sweep = _sweep()
NETWORKS = {network.name: network for network in sweep.selection()}
SMALLEST = "timm:test_resnet"


def test_every_classification_model_of_torchvision_is_in() -> None:
    ours = {name.partition(":")[2] for name, network in NETWORKS.items() if network.group == "torchvision"}
    assert ours == set(torchvision.models.list_models(module=torchvision.models))


def test_every_family_of_timm_is_in() -> None:
    families = {network.family for network in NETWORKS.values() if network.group != "torchvision"}
    assert families == set(timm.list_modules())
    assert Counter(network.group for network in NETWORKS.values())["timm, convolutional"] >= 150


def test_families_are_timms_own() -> None:
    for network in NETWORKS.values():
        if network.group != "torchvision":
            name = network.name.partition(":")[2]
            assert name in timm.list_models(module=network.family), name


def test_settings_name_networks_of_the_sweep() -> None:
    settings = sweep._settings()
    assert {*settings["ci"], *settings["fixed_size"], *settings["arguments"]} <= set(NETWORKS)


def test_parameters_that_start_as_zeros_are_drawn() -> None:
    """Of a timm ResNet the last scale of each residual branch is zero; the branch would not show in an attribution."""
    assert any(not parameter.any() for parameter in timm.create_model("test_resnet").parameters())
    assert all(parameter.any() for parameter in sweep.create(NETWORKS[SMALLEST]).parameters())


def test_creating_a_network_twice_draws_it_twice_alike() -> None:
    first, second = (sweep.create(NETWORKS[SMALLEST]).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def invoke(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(sweep.main, [str(argument) for argument in arguments])
    return found.exit_code, found.output


def test_a_network_is_proven_once_and_reported(tmp_path: Path) -> None:
    results, report = tmp_path / "sweep.jsonl", tmp_path / "coverage.md"
    for _ in range(2):
        status, output = invoke("--only", SMALLEST, "--results", results, "--report", report)
        assert status == 0, output
        assert "timm, convolutional: 1 of 1 proven (100.0%)" in output
    (line,) = results.read_text().splitlines()
    result = json.loads(line)
    assert result["parameters"] == sum(parameter.numel() for parameter in timm.create_model("test_resnet").parameters())
    assert result["float64"] <= 1e-10
    assert {"conv2d", "relu"} <= set(result["ops"])
    text = report.read_text()
    assert f"| test_resnet | 64 | {result['parameters']:,} | {len(result['ops'])} |" in text
    assert f"torch {version('torch')}, torchvision {version('torchvision')}, timm {version('timm')}" in text


def test_what_is_refused_has_saliports_own_message() -> None:
    network = dataclasses.replace(NETWORKS[SMALLEST], arguments={"features_only": True})
    result = sweep.attempt(network, 300, 8)
    assert result.clear
    assert result.reason.startswith("UnsupportedModel: FeatureListNet returns list, not a tensor of logits [N, K].")


def test_what_takes_too_long_is_stopped() -> None:
    result = sweep.attempt(NETWORKS[SMALLEST], 0, 8)
    assert not result.clear
    assert result.reason == "took more than 0 s"


def test_what_takes_too_much_memory_is_stopped() -> None:
    result = sweep.attempt(dataclasses.replace(NETWORKS["torchvision:vgg11"], image=64), 300, 1)
    assert not result.clear
    assert "memory" in result.reason


def test_bars() -> None:
    network = NETWORKS["torchvision:resnet18"]
    good, bad = sweep.Result(network.name), sweep.Result(network.name, reason="UnsupportedOp: …")
    for failed, every, passed in ((5, False, True), (6, False, False), (1, True, False), (0, True, True)):
        found = [(network, bad)] * failed + [(network, good)] * (100 - failed)
        assert sweep.passed(found, every) is passed


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    status, output = invoke("--only", "timm:resnet17", "--results", tmp_path / "sweep.jsonl")
    assert status == 2
    assert "not in sweep.toml: timm:resnet17" in output


@pytest.mark.parametrize("retry", [False, True])
def test_what_failed_is_tried_again_on_demand(tmp_path: Path, retry: bool) -> None:
    results = tmp_path / "sweep.jsonl"
    results.write_text(json.dumps(dataclasses.asdict(sweep.Result(SMALLEST, reason="took more than 1 s"))) + "\n")
    status, _ = invoke("--only", SMALLEST, "--results", results, *(["--retry"] if retry else []))
    assert status == (0 if retry else 1)
