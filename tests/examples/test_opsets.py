"""Every opset runs in the oldest onnxruntime that claims it, and in the newest: to the bit in whole numbers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.pipeline import emit, lowered_for
from scripts.matrix.installed import OLDEST, install, work
from scripts.matrix.opsets import OPSETS, try_opsets, write_opsets
from tests.examples.conftest import Once, Require
from tests.oracle import attribute
from tests.test_exact import explicit, whole

CLAIMS = {OLDEST: 19, "1.16.0": 19, "1.17.0": 20, "1.18.0": 21, "1.21.0": 22, "1.23.0": 23}
"""Version -> the last opset that it takes: for each opset the oldest on PyPI is among them."""

LACKS = {(OLDEST, 19)}
"""1.15 takes files of opset 19, but has no implementation of its Reshape and Pad; 1.16 has."""

WHOLE = ("resnet stem", "residual, stride 2", "vgg", "depthwise, relu6", "average pools")
"""Two of them have a batch norm, whose scale has a square root in it: on some processors with AVX-512 a Sqrt of 16 is
3.9999998 in onnxruntime before 1.19."""


@pytest.fixture(scope="session")
def packages(once: Once, require: Require):
    """Give ``packages(version)``: the folder that pip installed it into."""

    def installed(wanted: str) -> Path:
        try:
            return once(f"onnxruntime-{wanted}", lambda folder: install(wanted, folder))
        except subprocess.CalledProcessError:
            require(False, f"onnxruntime {wanted}", "PyPI has wheels of it for Python 3.11, and must be in reach")
            raise

    return installed


@pytest.fixture(scope="session")
def written(once: Once) -> Path:
    """Return a folder with the networks at every opset, their inputs, and what live autograd says."""

    def make(folder: Path) -> None:
        expected = write_opsets(folder / "opsets", [("cifar_resnet20", 32)])
        np.savez(folder / "expected.npz", **expected)
        target = torch.tensor([-1, 2, 0])
        for name in WHOLE:
            model, images = whole(name)
            lowered = lowered_for(explicit(name, "guided"), "onnx")
            for opset in OPSETS:
                emit(lowered, "onnx", folder / f"{name}-{opset}.onnx", opset)
            logits, attribution = attribute(model, images, target, "guided")
            np.savez(folder / f"{name}.npz", image_0=images.numpy(), target_0=target.numpy())
            np.savez(folder / f"{name}-expected.npz", logits=logits.numpy(), attribution=attribution.numpy())

    return once("opsets", make)


@pytest.mark.parametrize("wanted", [*CLAIMS, None], ids=lambda wanted: wanted or "newest")
def test_every_opset_that_a_version_claims_runs(wanted: str | None, packages, written: Path, tmp_path: Path) -> None:
    place = packages(wanted) if wanted else None
    with np.load(written / "expected.npz") as expected:
        row = try_opsets(dict(expected), written / "opsets", place)
    if wanted:
        assert row.version == wanted
        assert row.claims == CLAIMS[wanted]
    assert list(row.errors) == [str(opset) for opset in OPSETS if opset <= row.claims]
    runs = [opset for opset in OPSETS if opset <= row.claims and (wanted, opset) not in LACKS]
    for opset in runs:
        assert row.errors[str(opset)] < 1e-5, (opset, row.errors)
    for lacking in {opset for version, opset in LACKS if version == wanted}:
        assert "NOT_IMPLEMENTED : Could not find an implementation for" in row.errors[str(lacking)]

    cases = [(name, opset) for opset in runs for name in WHOLE]
    tasks = [
        [str(written / f"{name}-{opset}.onnx"), str(written / f"{name}.npz"), str(tmp_path / f"{name}-{opset}.npz")]
        for name, opset in cases
    ]
    answer = work({"runtime": "onnxruntime", "explain": tasks}, place)
    assert answer["explain"] == [""] * len(tasks)
    for name, opset in cases:
        with np.load(tmp_path / f"{name}-{opset}.npz") as found, np.load(written / f"{name}-expected.npz") as expected:
            assert np.array_equal(found["logits_0"], expected["logits"]), (name, opset)
            assert np.array_equal(found["attribution_0"], expected["attribution"]), (name, opset)
