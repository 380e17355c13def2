"""The command's contract: options, exit statuses, messages."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import exporter
from exporter import differentiate, methods
from exporter.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments], catch_exceptions=False)


def refused(*arguments: str) -> str:
    """Run a wrong use; return its message."""
    before = snapshot()
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert snapshot() == before, "something was written or lost"
    return result.stderr


def snapshot() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


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

class Image(nn.Module):
    def forward(self, x):
        return x

class Constant(nn.Module):
    def forward(self, x):
        return torch.ones_like(x.flatten(1))

class Pinned(nn.Module):
    def forward(self, x):
        return x.reshape(1, -1) if x.shape[0] == 1 else x.view(2, -1)

def double():
    return tiny().double()
"""


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


def test_every_option() -> None:
    weights = torch.load(ROOT / "models/weights/cifar_resnet20.th", weights_only=True, map_location="cpu")
    torch.save(weights, "mine.pth")
    result = run(
        *("--model", "cifar_resnet20", "--method", "gradient", "--weights", "mine.pth", "--input-shape", "3,24,40"),
        *("--format", "onnx", "--opset", "20", "--output", "deep/er/here", "--seed", "7"),
    )
    assert result.exit_code == 0, result.output
    assert "file mine.pth" in result.stdout
    manifest = json.loads(Path("deep/er/here/manifest.json").read_text())
    assert manifest["method"]["name"] == "gradient"
    assert manifest["inputs"][0]["shape"] == ["batch", 3, 24, 40]
    assert list(manifest["files"]) == ["onnx"]
    assert manifest["opset"] == 20
    assert manifest["seed"] == manifest["parity"]["seed"] == 7
    assert manifest["model"]["weights"] == "file mine.pth"


def test_an_untrained_network_says_so() -> None:
    result = run("--model", "mlp")
    assert "Note: these weights are random, so the attribution means nothing yet" in result.stdout
    manifest = json.loads(Path("artifacts/mlp-guided/manifest.json").read_text())
    assert manifest["model"]["trained"] is False
    assert manifest["model"]["weights"] == "untrained, seed 0"


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
    wrong = methods.Method("guided", lambda g, active: g * active * (g > 0.1), "", "", "")
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


# -- wrong use --------------------------------------------------------------------------------------------------------

TINY = ("--model", "nets.py:tiny", "--input-shape", "4")


def line_of(text: str) -> int:
    """Return the number of the line of ``NETS`` that holds a text."""
    return next(number for number, line in enumerate(NETS.splitlines(), 1) if text in line)


WRONG = {
    "no model": ((), r"Missing option '--model'"),
    "an unknown option": (("--model", "mlp", "--colour", "red"), r"No such option"),
    "an unknown model": (("--model", "resnet19"), r"'resnet19' is not in the zoo. Did you mean .*resnet"),
    "a far-off model": (("--model", "zzz"), r"'zzz' is not in the zoo. The zoo has .*resnet18"),
    "an unknown method": (("--model", "mlp", "--method", "lrp"), r"'lrp' is not one of 'guided'"),
    "an unknown format": (("--model", "mlp", "--format", "tflite"), r"unknown format 'tflite'; there are torchscript"),
    "an empty format": (("--model", "mlp", "--format", ""), r"unknown format ''"),
    "an old opset": (("--model", "mlp", "--opset", "11"), r"11 is not in the range 17<=x<=23"),
    "a future opset": (("--model", "mlp", "--opset", "99"), r"99 is not in the range"),
    "a shape of words": (("--model", "mlp", "--input-shape", "3x224x224"), r"'3x224x224' is not a shape; .*3,224,224"),
    "a shape with a zero": (("--model", "mlp", "--input-shape", "3,0,4"), r"has a size below 1; leave out the batch"),
    "a shape with a batch of -1": (("--model", "mlp", "--input-shape", "-1,3,4,4"), r"has a size below 1"),
    "an empty shape": (("--model", "mlp", "--input-shape", ""), r"'' is not a shape"),
    "a negative seed": (("--model", "mlp", "--seed", "-1"), r"-1 is not in the range 0<=x<="),
    "a shape that does not fit": (
        ("--model", "cifar_resnet20", "--input-shape", "1,32,32"),
        r"CifarResNet does not run on an input of shape \(1, 1, 32, 32\).*Check --input-shape",
    ),
    "a missing file": (("--model", "gone.py:net"), r"there is no Python file gone.py"),
    "a file without a factory": (("--model", "nets.py"), r"name the factory too, path/to/file.py:factory"),
    "an unknown factory": (("--model", "nets.py:tinny"), r"nets.py defines no 'tinny'; did you mean tiny"),
    "a factory with arguments": (("--model", "nets.py:needs"), r"needs\(\) raised TypeError: .*'width'"),
    "a factory that raises": (
        ("--model", "nets.py:raises"),
        rf"raises\(\) raised .*nets.py:{line_of('nn.Linear(-1')}\)",
    ),
    "a factory that returns a list": (("--model", "nets.py:returns_a_list"), r"returned list, not an nn.Module"),
    "a factory that is a number": (("--model", "nets.py:number"), r"number is a int, not a callable"),
    "a syntax error": (("--model", "broken.py:net"), r"broken.py cannot be imported: SyntaxError"),
    "an import error": (
        ("--model", "imports.py:net"),
        r"imports.py cannot be imported: ModuleNotFoundError.*imports.py:1",
    ),
    "missing weights": ((*TINY, "--weights", "gone.pt"), r"--weights gone.pt: there is no such file"),
    "empty weights": ((*TINY, "--weights", "empty.pt"), r"--weights empty.pt: cannot be read"),
    "truncated weights": ((*TINY, "--weights", "half.pt"), r"--weights half.pt: cannot be read"),
    "weights that are text": ((*TINY, "--weights", "nets.py"), r"--weights nets.py: (refused|cannot be read)"),
    "weights that run code": (
        (*TINY, "--weights", "evil.pt"),
        r"--weights evil.pt: refused, it holds more than plain tensors",
    ),
    "a whole model as weights": ((*TINY, "--weights", "whole.pt"), r"refused.*Save model.state_dict\(\)"),
    "a list as weights": ((*TINY, "--weights", "list.pt"), r"holds a list, not a state dict"),
    "numbers as weights": ((*TINY, "--weights", "numbers.pt"), r"not a state dict: 'epoch'"),
    "weights of another network": (
        (*TINY, "--weights", "other.pt"),
        r"other.pt does not fit Sequential: 4 missing: 1.weight, 1.bias, 3.weight, …; 1 unexpected: a",
    ),
    "weights of another shape": ((*TINY, "--weights", "shape.pt"), r"2 wrongly shaped: 3.weight \[2, 5\] for \[3, 5\]"),
    "weights with NaN": ((*TINY, "--weights", "nan.pt"), r"nan.pt holds NaN or infinity in 1.bias"),
    "control flow on data": (
        ("--model", "nets.py:Branch", "--input-shape", "4"),
        rf"control flow of Branch depends on the data.*nets.py:{line_of('if x.sum() > 0')}\b",
    ),
    "an unsupported operator": (
        ("--model", "nets.py:Unknown", "--input-shape", "4"),
        rf"aten.special_bessel_j0.default has no vjp rule \(inner, .*nets.py:{line_of('bessel')}\).*exporter/rules",
    ),
    "a tuple": (("--model", "nets.py:Tuple", "--input-shape", "4"), r"Tuple returns tuple, not a tensor of logits"),
    "an image": (
        ("--model", "nets.py:Image", "--input-shape", "3,4,4"),
        r"Image returns a tensor of shape \(1, 3, 4, 4\)",
    ),
    "a constant": (("--model", "nets.py:Constant", "--input-shape", "4"), r"logits do not depend on the image"),
    "a pinned batch": (
        ("--model", "nets.py:Pinned", "--input-shape", "4"),
        r"Pinned works with a fixed batch size only",
    ),
    "a float64 network": (
        ("--model", "nets.py:double", "--input-shape", "4"),
        r"is torch.float64; artifacts are float32",
    ),
    "a file as output": ((*TINY, "--output", "nets.py"), r"--output nets.py is not a folder"),
    "a folder with other files": (
        (*TINY, "--output", "mine"),
        r"--output mine holds other files \(a.txt, b.txt, c.txt, …\)",
    ),
    "an output below a file": ((*TINY, "--output", "nets.py/out"), r"lies below .*nets.py, which is not a folder"),
}


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture
def wrong_files(nets: str) -> None:
    Path("broken.py").write_text("def net(:\n")
    Path("imports.py").write_text("import no_such_package\n")
    Path("empty.pt").write_bytes(b"")
    good = {
        "1.weight": torch.ones(5, 4),
        "1.bias": torch.ones(5),
        "3.weight": torch.ones(3, 5),
        "3.bias": torch.ones(3),
    }
    torch.save(good, "good.pt")
    content = Path("good.pt").read_bytes()
    Path("half.pt").write_bytes(content[: len(content) // 2])
    torch.save({"x": Evil()}, "evil.pt")
    torch.save(torch.nn.Linear(2, 2), "whole.pt")
    torch.save([torch.ones(2)], "list.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    torch.save({"a": torch.ones(1)}, "other.pt")
    torch.save({**good, "3.weight": torch.ones(2, 5), "3.bias": torch.ones(2)}, "shape.pt")
    torch.save({**good, "1.bias": torch.full((5,), torch.nan)}, "nan.pt")
    torch.save({3: torch.ones(1)}, "keys.pt")
    torch.save({**good, "1.weight": good["1.weight"].to_sparse()}, "sparse.pt")
    torch.save({**good, "1.weight": good["1.weight"].to(torch.complex64)}, "complex.pt")
    Path("quits.py").write_text("raise SystemExit(0)\n")
    Path("mine").mkdir()
    for name in "abcd":
        Path(f"mine/{name}.txt").write_text(name)


@pytest.mark.usefixtures("wrong_files")
@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    stderr = refused(*arguments)
    flat = " ".join(stderr.split())
    assert re.search(message, flat), flat
    assert len(stderr.splitlines()) <= 4, "one message"


def test_a_read_only_folder(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    # Permissions do not stop root, as whom tests often run, so the question itself is answered here.
    monkeypatch.setattr("exporter.artifact.os.access", lambda path, mode: Path(path).name != "locked")
    assert "cannot be written: no permission in" in refused(*TINY, "--output", "locked/out")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(exporter.UsageError):
        run("--model", "resnet19", "--debug")


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
    from exporter.cli import FORMAT_NAMES, METHOD_NAMES, export_command
    from exporter.emit.onnx import MAX_OPSET, MIN_OPSET

    assert list(METHOD_NAMES) == list(methods.METHODS)
    assert list(FORMAT_NAMES) == list(FILES)
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
