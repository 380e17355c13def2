"""The command's contract: options, exit statuses, messages."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import exporter
from exporter import differentiate, lowering, methods
from exporter.cli import main
from tests.command import NETS, run, snapshot

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nets() -> str:
    Path("nets.py").write_text(NETS)
    return "nets.py"


# -- what works -------------------------------------------------------------------------------------------------------


def test_a_shipped_network_by_default() -> None:
    result = run("--model", "digits_cnn")
    assert result.exit_code == 0
    assert not result.stderr, "progress is for terminals"
    assert "digits_cnn (40,506 parameters, shipped digits_cnn.pt), guided" in result.stdout
    assert "Proven against live autograd on 4 inputs in batches of 1 and 3" in result.stdout
    assert "random" not in result.stdout
    folder = Path("artifacts/digits_cnn-guided")
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.onnx", "model.pt"]
    assert str(folder) in result.stdout


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a version, as the installed one does, and exports."""
    assert metadata.version("saliport") == exporter.__version__
    monkeypatch.setattr(
        metadata.Distribution, "from_name", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name))
    )
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("saliport")
    said = CliRunner().invoke(main, ["--version"])
    assert said.output == f"saliport, version {exporter.__version__}\n"
    assert run("--model", "digits_cnn", "--format", "onnx").exit_code == 0
    manifest = json.loads(Path("artifacts/digits_cnn-guided/manifest.json").read_text())
    assert manifest["producer"] == f"saliport {exporter.__version__}"


def test_every_option() -> None:
    weights = torch.load(ROOT / "models/weights/cifar_resnet20.th", weights_only=True, map_location="cpu")
    torch.save(weights, "mine.pth")
    result = run(
        *("--model", "cifar_resnet20", "--method", "gradient", "--weights", "mine.pth", "--input-shape", "3,24,40"),
        *("--format", "onnx", "--opset", "20", "--optimize-for", "portable", "--output", "deep/er/here", "--seed", "7"),
    )
    assert result.exit_code == 0, result.output
    assert "file mine.pth" in result.stdout
    manifest = json.loads(Path("deep/er/here/manifest.json").read_text())
    assert manifest["method"]["name"] == "gradient"
    assert manifest["inputs"][0]["shape"] == ["batch", 3, 24, 40]
    assert list(manifest["files"]) == ["onnx"]
    assert (manifest["opset"], manifest["optimize_for"]) == (20, "portable")
    assert manifest["seed"] == manifest["parity"]["seed"] == 7
    assert manifest["model"]["weights"] == "file mine.pth"


def test_an_untrained_network_says_so() -> None:
    result = run("--model", "mlp")
    assert "Note: these weights are random, so the attribution means nothing yet" in result.stdout
    manifest = json.loads(Path("artifacts/mlp-guided/manifest.json").read_text())
    assert manifest["model"]["trained"] is False
    assert manifest["model"]["weights"] == "untrained, seed 0"


def test_another_network_of_the_same_name_replaces_an_artifact_and_says_so(nets: str) -> None:
    other = Path("other/nets.py")
    other.parent.mkdir()
    other.write_text(Path(nets).read_text())
    for file, note in ((nets, False), (nets, False), (str(other), True)):
        result = run("--model", f"{file}:tiny", "--input-shape", "4", "--format", "torchscript")
        assert result.exit_code == 0, result.output
        assert (f"Note: the artifact of {nets}:tiny was there before" in result.stdout) == note


def test_a_factory_in_a_file(nets: str) -> None:
    result = run("--model", f"{nets}:tiny", "--input-shape", "4", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "Note: the weights are as the factory made them" in result.stdout
    assert json.loads(Path("out/manifest.json").read_text())["model"]["trained"] is None
    found = exporter.load("out")(np.ones((2, 4), np.float32))
    assert found.logits.shape == (2, 3)
    assert found.attribution.shape == (2, 4)


def test_the_seed_makes_the_weights(nets: str) -> None:
    digests = []
    for seed in ("1", "1", "2"):
        assert run("--model", f"{nets}:tiny", "--input-shape", "4", "--output", "out", "--seed", seed).exit_code == 0
        digests.append(json.loads(Path("out/manifest.json").read_text())["model"]["weights_sha256"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_in_their_usual_wrappings(nets: str, wrap, prefix: str) -> None:
    spec = importlib.util.spec_from_file_location("nets", nets)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = module.tiny().state_dict()
    torch.save(wrap({prefix + key: value for key, value in state.items()}), "w.pt")
    result = run("--model", f"{nets}:tiny", "--weights", "w.pt", "--input-shape", "4", "--output", "out")
    assert result.exit_code == 0, result.output
    script = torch.jit.load("out/model.pt")
    assert all(torch.equal(value, state[name]) for name, value in script.state_dict().items())


@pytest.mark.parametrize("program", [["-m", "exporter.cli"], [str(ROOT / "scripts" / "export.py")]])
def test_help_is_quick_to_import_and_has_three_examples(program: list[str]) -> None:
    if program[0] == "-m":
        code = "import sys; sys.argv = ['saliport', 'export', '--help']; import exporter.cli; exporter.cli.main()"
        command = [sys.executable, "-X", "importtime", "-c", code]
    else:
        command = [sys.executable, "-X", "importtime", *program, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.count("saliport export --model") == 3
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "onnx", "onnxruntime", "numpy", "rich"}


def test_running_an_onnx_artifact_does_not_import_torch() -> None:
    assert run("--model", "digits_cnn", "--output", "out").exit_code == 0
    code = (
        "import sys, numpy, exporter; session = exporter.load('out');"
        "session(numpy.zeros((2, 1, 8, 8), numpy.float32)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# -- verification -----------------------------------------------------------------------------------------------------


def test_a_wrong_rule_is_caught_and_nothing_is_written(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--model", f"{nets}:tiny", "--input-shape", "4", "--output", "out").exit_code == 0
    before = snapshot()
    wrong = methods.Method("guided", lambda g, active, keep: g * active * (g > 0.1), "", "", "")
    monkeypatch.setitem(methods.METHODS, "guided", wrong)
    result = run("--model", f"{nets}:tiny", "--input-shape", "4", "--output", "out")
    assert result.exit_code == 1
    assert "verification failed" in result.stderr
    assert "nothing was written" in result.stderr
    for where in ("torchscript float64", "torchscript float32", "onnxruntime float32"):
        assert f"{where}: attribution of sample" in result.stderr
    assert "relative L2" in result.stderr
    assert snapshot() == before


def test_a_target_that_wraps_around_is_caught(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chosen = torch.where(target < 0, logits.argmax(1), target)
        return torch.zeros_like(logits).scatter(1, chosen.unsqueeze(1), 1.0)

    monkeypatch.setattr(differentiate, "seed", lenient)
    result = run("--model", f"{nets}:tiny", "--input-shape", "4", "--output", "out")
    assert result.exit_code == 1
    assert "onnxruntime float32: target -2 was accepted in a batch of 1, but there are 3 classes" in result.stderr
    assert not Path("out").exists()


# -- other ends --------------------------------------------------------------------------------------------------------

TINY = ("--model", "nets.py:tiny", "--input-shape", "4")


def test_an_error_of_our_own_is_no_failed_verification(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> ModuleType:
        raise AssertionError("a bug\nwith details")

    monkeypatch.setattr("exporter.pipeline.capture", broken)
    result = run(*TINY)
    assert result.exit_code == 70
    assert "internal error, please report it: AssertionError: a bug (--debug shows where)" in result.stderr
    assert "details" not in result.stderr
    with pytest.raises(AssertionError, match="a bug"):
        run(*TINY, "--debug")


def test_an_interrupt(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> ModuleType:
        raise KeyboardInterrupt

    monkeypatch.setattr("exporter.pipeline.prove", interrupted)
    result = run(*TINY, "--output", "out")
    assert result.exit_code == 130
    assert "interrupted; nothing was written" in result.stderr
    assert not [path for path in Path().iterdir() if "out" in path.name]


def test_choices_are_the_packages_own() -> None:
    """They are spelled out in the command so that --help need not import torch."""
    from exporter.artifact import FILES
    from exporter.cli import export_command
    from exporter.emit.onnx import MAX_OPSET, MIN_OPSET
    from exporter.options import FORMAT_NAMES, METHOD_NAMES, TARGET_NAMES

    assert list(METHOD_NAMES) == list(methods.METHODS)
    assert list(FORMAT_NAMES) == list(FILES)
    assert set(TARGET_NAMES) == set(lowering.TARGETS)
    opset = next(option for option in export_command.params if option.name == "opset").type
    assert (opset.min, opset.max) == (MIN_OPSET, MAX_OPSET)


def test_names_that_the_artifact_uses_itself(nets: str) -> None:
    result = run("--model", f"{nets}:Named", "--input-shape", "4", "--output", "out")
    assert result.exit_code == 0, result.output
    names = list(torch.jit.load("out/model.pt").state_dict())
    assert sorted(names) == ["image_", "image__", "logits_.bias", "logits_.weight", "target_"]


def test_a_project_with_a_models_package_of_its_own() -> None:
    Path("models").mkdir()
    Path("models/__init__.py").write_text("")
    Path("models/net.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(4, 2)\n")
    Path("top.py").write_text("from models.net import net\n")
    Path("late.py").write_text("def net():\n    from models.net import net\n    return net()\n")
    for file in ("top.py", "late.py"):
        result = run("--model", f"{file}:net", "--input-shape", "4", "--output", "out")
        assert result.exit_code == 0, result.output
    assert run("--model", "mlp", "--output", "out").exit_code == 0
