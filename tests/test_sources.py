"""Where networks come from, and what a file of weights that does not fit is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import exporter
from exporter.sources import load_weights, read_weights, resolve, strip, weights_sha256
from models import mlp as mlps
from models.resnet import resnet18
from tests.command import NETS, run

STORE = """
from torch import nn
from store.parts import head

def net(num_classes=3, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), head(width, num_classes))
"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Go to a project with a package of networks, ``store``, and a file of them, ``nets.py``."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("store").mkdir()
    Path("store/__init__.py").write_text("")
    Path("store/nets.py").write_text(STORE)
    Path("store/parts.py").write_text("from torch import nn\ndef head(width, k):\n    return nn.Linear(width, k)\n")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "store"]:
        del sys.modules[name]


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -- where networks come from -----------------------------------------------------------------------------------------


def test_a_module_of_the_current_folder() -> None:
    source = resolve("store.nets:net", sample_shape=(4,))
    assert source.name == "net"
    assert source.model(torch.zeros(2, 4)).shape == (2, 3)
    assert source.trained is None


def test_a_module_that_is_installed() -> None:
    """Torch is installed; the current folder has nothing of the kind."""
    source = resolve("torch.nn:Linear", arguments={"in_features": 4, "out_features": 2}, sample_shape=(4,))
    assert source.model(torch.zeros(1, 4)).shape == (1, 2)


def test_a_module_of_saliports_own() -> None:
    source = resolve("models.resnet:resnet18", arguments={"num_classes": 4, "width": 8})
    torch.manual_seed(0)
    assert same(states(source.model), states(resnet18(num_classes=4, width=8)))


@pytest.mark.parametrize("package", ["models", "exporter"])
def test_a_module_with_the_name_of_saliports_own(package: str) -> None:
    Path(package).mkdir()
    Path(f"{package}/__init__.py").write_text("from torch import nn\ndef mine():\n    return nn.Linear(4, 7)\n")
    assert resolve(f"{package}:mine", sample_shape=(4,)).model.out_features == 7
    assert not hasattr(sys.modules[package], "mine"), "Saliport has its own again"


def test_the_command_finds_the_modules_of_the_folder_where_it_runs() -> None:
    """Python puts a script's folder on the path, not the one where a command runs."""
    root = Path(exporter.__file__).parent.parent
    command = [sys.executable, str(root / "scripts" / "export.py"), "--model", "store.nets:net", "--input-shape", "4"]
    subprocess.run([*command, "--format", "onnx", "--output", "out"], check=True, capture_output=True)
    assert json.loads(Path("out/manifest.json").read_text())["model"]["spec"] == "store.nets:net"


@pytest.mark.parametrize(
    ("spec", "arguments", "classes"),
    [
        ("mlp", {"num_classes": 4, "inputs": 6, "hidden": [5, 5]}, 4),
        ("store.nets:net", {"num_classes": 6}, 6),
        ("nets.py:takes", {"num_classes": 5, "depth": 1}, 5),
    ],
)
def test_arguments_go_to_every_kind_of_factory(spec: str, arguments: dict[str, object], classes: int) -> None:
    shape = "6" if spec == "mlp" else "4"
    result = run("--model", spec, "--model-args", json.dumps(arguments), "--input-shape", shape, "--output", "out")
    assert result.exit_code == 0, result.output
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["outputs"][0]["shape"] == ["batch", classes]
    assert manifest["model"]["args"] == arguments
    jsonschema.validate(manifest, json.loads(Path(exporter.__file__).with_name("manifest.schema.json").read_text()))


def test_no_arguments_are_not_mentioned() -> None:
    assert "args" not in resolve("mlp").describe()
    assert "args" not in resolve("mlp", arguments={}).describe()


def test_shipped_weights_belong_to_the_network_without_arguments() -> None:
    source = resolve("cifar_resnet20", arguments={"num_classes": 4})
    assert source.trained is False
    assert source.weights == "untrained, seed 0"
    assert source.classes is None
    assert source.preprocessing is not None
    assert resolve("cifar_resnet20", arguments={}).trained is True


def test_an_error_in_a_module_says_where() -> None:
    Path("store/parts.py").write_text("def head(width, k):\n    return width.missing\n")
    with pytest.raises(exporter.UsageError, match=r"'int' object has no attribute 'missing' \(.*parts.py:2\)$"):
        resolve("store.nets:net")


def test_a_library_that_is_installed_and_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision beside a torch that it was not built for."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    Path("torchvision").mkdir()
    Path("torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(Path.cwd())
    message = r"torchvision is installed but cannot be imported: RuntimeError: operator .* belongs to torch \d"
    with pytest.raises(exporter.UsageError, match=message):
        resolve("torchvision:resnet18")


# -- files of weights -------------------------------------------------------------------------------------------------


def tiny() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("file", ["w.pt", "w.pth", "w.safetensors", "W.SAFETENSORS"])
def test_both_formats(file: str) -> None:
    state = states(tiny())
    (save_file if file.lower().endswith("safetensors") else torch.save)(state, file)
    result = run("--model", "nets.py:tiny", "--weights", file, "--input-shape", "4", "--output", "out")
    assert result.exit_code == 0, result.output
    assert same(dict(torch.jit.load("out/model.pt").state_dict()), state)
    model = json.loads(Path("out/manifest.json").read_text())["model"]
    assert model["weights"] == f"file {file}"
    assert model["trained"] is True
    assert model["weights_sha256"] == weights_sha256(tiny())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in states(tiny()).items()}
    save_file(state, "w.safetensors")
    model = tiny()
    load_weights(model, Path("w.safetensors"))
    assert same(states(model), {key: value.float() for key, value in state.items()})


@pytest.mark.parametrize(
    "wrapper",
    ["state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params", "model_ema", "ema"],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone."])
def test_wrappers_and_prefixes(wrapper: str, prefix: str) -> None:
    state = states(tiny())
    torch.save({"epoch": 3, wrapper: {prefix + key: value for key, value in state.items()}}, "w.pt")
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    assert load_weights(model, Path("w.pt")) == ""
    assert same(states(model), state)


def test_a_prefix_that_the_network_has_too_is_kept() -> None:
    model = nn.ModuleDict({"model": tiny()})
    torch.save(states(nn.ModuleDict({"model": tiny()})), "w.pt")
    load_weights(model, Path("w.pt"))
    assert strip(read_weights(Path("w.pt"))).keys() == model.state_dict().keys()


def test_of_several_sets_of_weights_it_says_which() -> None:
    averaged = {key: value * 2 for key, value in states(tiny()).items()}
    torch.save({"model_ema": averaged, "model": states(tiny()), "optimizer": {"lr": 0.1}}, "w.pt")
    source = resolve("nets.py:tiny", weights="w.pt")
    assert same(states(source.model), states(tiny()))
    assert source.weights == "file w.pt, its 'model', not its 'model_ema'"


def test_counters_may_be_missing() -> None:
    """``num_batches_tracked`` came with PyTorch 0.4.1, and is no part of the function."""
    model = nn.BatchNorm1d(3)
    torch.save({key: value for key, value in states(model).items() if "num" not in key}, "w.pt")
    load_weights(model, Path("w.pt"))


def resnet(**arguments: int) -> dict[str, torch.Tensor]:
    return states(resnet18(width=8, **arguments))


def within(prefix: str, state: dict[str, torch.Tensor], **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**{prefix + key: value for key, value in state.items()}, **more}


def grey(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "conv1.weight": state["conv1.weight"].sum(1, keepdim=True)}


def without(state: dict[str, torch.Tensor], *starts: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(starts)}


CAUSES = {
    "another number of classes": (
        lambda: resnet(num_classes=10),
        r"2 wrongly shaped: fc.weight \[10, 64\] for \[1000, 64\], fc.bias \[10\] for \[1000\]. Likely cause: another "
        r"number of classes, 10 in the file and 1000 .*--model-args '\{\"num_classes\": 10\}'",
    ),
    "classes, below a prefix": (lambda: within("model.", resnet(num_classes=10)), r"\"num_classes\": 10"),
    "grey images": (
        lambda: grey(resnet()),
        r"1 wrongly shaped: conv1.weight \[8, 1, 7, 7\] for \[8, 3, 7, 7\]. Likely cause: another number of input "
        r"channels, 1 in the file and 3",
    ),
    "another width": (
        lambda: states(resnet18(width=16)),
        r"\d+ wrongly shaped: conv1.weight .*, …. Likely cause: another width, depth or image size of the same",
    ),
    "a part of a larger network": (
        lambda: within("backbone.", resnet(), **{"neck.weight": torch.ones(3)}),
        r"\d+ missing: conv1.weight, .*\d+ unexpected: backbone.conv1.weight, .*"
        r"the network is a part of the saved one, its 'backbone.'",
    ),
    "a network without its last layer": (
        lambda: without(resnet(), "fc."),
        r"2 missing: fc.weight, fc.bias. Likely cause: the file is of a smaller variant, or lacks fc:",
    ),
    "a network with another head": (
        lambda: {**resnet(), "aux.weight": torch.ones(3)},
        r"1 unexpected: aux.weight. Likely cause: the file is of a larger variant: all \d+ keys of the network",
    ),
    "another name for the last layer": (
        lambda: {key.replace("fc.", "head."): value for key, value in resnet().items()},
        r"2 missing: fc.*; 2 unexpected: head.*the file's head is the network's fc: another version",
    ),
    "another depth": (
        lambda: {key.replace("layer4.1", "layer5.0"): value for key, value in without(resnet(), "layer3.1").items()},
        r"missing: layer3.1.*unexpected: layer5.0.*another variant of the architecture: \d+ of \d+ keys are in both",
    ),
    "other names throughout": (
        lambda: {f"layer_{index}": value for index, value in enumerate(without(resnet(), "num").values())},
        r"missing: conv1.weight.*unexpected: layer_0.*(other names for its layers|another architecture)",
    ),
    "another architecture": (
        lambda: states(mlps.mlp()),
        r"missing: conv1.weight, bn1.weight, .*, …; \d+ unexpected: .*another architecture, no key is in both",
    ),
}


@pytest.mark.parametrize(("make", "message"), CAUSES.values(), ids=CAUSES)
def test_the_likely_cause(make, message: str) -> None:
    torch.save(make(), "w.pt")
    model = resnet18(width=8)
    before = states(model)
    with pytest.raises(exporter.UsageError, match=message):
        load_weights(model, Path("w.pt"))
    assert same(states(model), before)


def test_a_network_that_holds_the_saved_one() -> None:
    torch.save(states(tiny()), "w.pt")
    model = nn.ModuleDict({"backbone": tiny(), "head": nn.Linear(3, 2)})
    with pytest.raises(exporter.UsageError, match=r"the file holds a part of the network, its 'backbone.'"):
        load_weights(model, Path("w.pt"))


def test_a_network_whose_own_keys_have_a_prefix() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    saved = {key: value + 1 for key, value in states(model).items()}
    for state in (saved, within("module.", saved), within("_orig_mod.", saved)):
        torch.save(state, "w.pt")
        load_weights(model, Path("w.pt"))
        assert same(states(model), saved)
        model.load_state_dict({key: torch.zeros_like(value) for key, value in saved.items()})


def test_a_counter_of_another_shape_is_left_out() -> None:
    model = nn.BatchNorm1d(3)
    torch.save({**states(model), "num_batches_tracked": torch.ones(2)}, "w.pt")
    load_weights(model, Path("w.pt"))
    assert model.num_batches_tracked.item() == 0


def test_the_likely_cause_does_not_hang_on_counters() -> None:
    norm = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    torch.save(states(norm), "w.pt")
    with pytest.raises(
        exporter.UsageError, match=r"8 missing: .*; 6 unexpected: .* a part of the network, its 'model.'"
    ):
        load_weights(nn.ModuleDict({"model": norm, "head": nn.Linear(3, 2)}), Path("w.pt"))
    torch.save({f"layer_{key}": value for key, value in states(norm).items()}, "w.pt")
    with pytest.raises(exporter.UsageError, match="other names for its layers"):
        load_weights(norm, Path("w.pt"))


def test_other_features_after_flattening() -> None:
    torch.save(states(nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))), "w.pt")
    with pytest.raises(exporter.UsageError, match=r"another image size or width: 1.weight takes 9 features .* 4 here"):
        load_weights(tiny(), Path("w.pt"))


def test_a_mask_may_hold_infinity() -> None:
    """The mask of an attention is no weight; a NaN in it would be one everywhere."""
    Path("masked.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, value):\n"
        "        super().__init__(4, 2)\n"
        "        self.register_buffer('mask', torch.tensor([0.0, value]))\n"
        "def net(value):\n    return Net(float(value))\n"
    )
    source = resolve("masked.py:net", arguments={"value": "-inf"})
    torch.save(states(source.model), "w.pt")
    assert resolve("masked.py:net", arguments={"value": "0"}, weights="w.pt").model.mask[1] == -torch.inf
    with pytest.raises(exporter.UsageError, match="holds NaN or infinity in mask"):
        resolve("masked.py:net", arguments={"value": "nan"})


def test_an_empty_wrapper_is_none(tmp_path: Path) -> None:
    net = nn.Linear(4, 3)
    (tmp_path / "net.py").write_text(LINEAR)
    torch.save({"state_dict": {}, "model": net.state_dict()}, tmp_path / "w.pt")
    loaded = resolve(f"{tmp_path}/net.py:make", weights=tmp_path / "w.pt")
    assert torch.equal(loaded.model.get_parameter("weight"), net.weight)


def test_a_users_folder_is_on_the_path_only_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(LINEAR)
    before = list(sys.path)
    resolve(f"{tmp_path}/net.py:make")
    assert sys.path == before


LINEAR = "import torch\n\n\ndef make():\n    return torch.nn.Linear(4, 3)\n"
