"""Networks and weights of torchvision and timm themselves; no hub is within reach of these tests."""

from __future__ import annotations

import errno
import io
import os
import shutil
from email.message import Message
from pathlib import Path

import pytest
import torch

import exporter
from exporter.sources import resolve
from tests.test_wrong_uses import Evil

try:
    import timm
    import torchvision
    from huggingface_hub import constants as hub_constants
except Exception as error:  # RuntimeError where torchvision is not the one that belongs to this torch
    pytest.skip(
        f"needs a venv with pip install 'saliport[timm]', which brings torchvision: {error}", allow_module_level=True
    )

RESNET18 = "resnet18-f37072fd.pth"
"""What torchvision calls its file of ResNet-18's weights."""


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the libraries empty caches, and no network: what reaches for one fails at the socket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr("socket.getaddrinfo", unreachable)


def cached_by_torch(content: object, name: str = RESNET18) -> Path:
    """Put a file where torchvision's loader looks before it asks the hub."""
    path = Path("torch/hub/checkpoints") / name
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


def cached_by_huggingface(state: dict[str, torch.Tensor], repository: str) -> None:
    """Put a file where huggingface_hub looks before it asks the hub, in the layout of its cache."""
    from safetensors.torch import save_file

    folder = Path("hf") / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    save_file(state, folder / "snapshots" / "0123abcd" / "model.safetensors")


def random_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }


def holds(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


# -- networks ---------------------------------------------------------------------------------------------------------


def test_a_network_of_torchvision() -> None:
    source = resolve("torchvision:squeezenet1_1", seed=5)
    torch.manual_seed(5)
    assert holds(source.model, torchvision.models.squeezenet1_1().state_dict())
    assert source.name == "squeezenet1_1"
    assert source.sample_shape == (3, 224, 224)
    assert source.preprocessing.mean == (0.485, 0.456, 0.406)
    assert source.preprocessing.std == (0.229, 0.224, 0.225)
    assert source.classes is None, "the weights are random"
    assert source.trained is False
    assert source.weights == "untrained, seed 5"
    assert not source.model.training


def test_a_network_of_timm() -> None:
    source = resolve("timm:mobilenetv3_small_050", seed=5)
    torch.manual_seed(5)
    assert holds(source.model, timm.create_model("mobilenetv3_small_050").state_dict())
    assert source.sample_shape == (3, 224, 224)
    assert source.preprocessing.mean == (0.485, 0.456, 0.406)
    assert source.trained is False


@pytest.mark.parametrize(
    ("spec", "arguments", "shape", "mean"),
    [
        ("torchvision:inception_v3", {"init_weights": False}, (3, 299, 299), (0.485, 0.456, 0.406)),
        ("torchvision:vit_b_16", {"image_size": 64}, (3, 64, 64), (0.485, 0.456, 0.406)),
        ("timm:inception_v3", {}, (3, 299, 299), (0.5, 0.5, 0.5)),
        ("timm:inception_v3.gluon_in1k", {}, (3, 299, 299), (0.485, 0.456, 0.406)),
        ("timm:vit_tiny_patch16_224", {"img_size": 64}, (3, 64, 64), (0.5, 0.5, 0.5)),
        ("timm:resnet18", {"in_chans": 1}, (1, 224, 224), None),
        ("timm:test_resnet", {}, (3, 160, 160), (0.5, 0.5, 0.5)),
    ],
)
def test_the_input_is_what_the_library_says(spec: str, arguments: dict[str, object], shape, mean) -> None:
    source = resolve(spec, arguments=arguments)
    assert source.sample_shape == shape
    assert (source.preprocessing and source.preprocessing.mean) == mean


def test_a_shape_of_the_users_goes_before() -> None:
    assert resolve("torchvision:squeezenet1_1", sample_shape=(3, 64, 64)).sample_shape == (3, 64, 64)


@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_arguments(spec: str) -> None:
    source = resolve(spec, arguments={"num_classes": 7})
    assert source.model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_the_whole_way(spec: str) -> None:
    source = resolve(spec, arguments={"num_classes": 4}, sample_shape=(3, 64, 64))
    artifact = exporter.export(source.model, source.sample_shape, "out", description=source.describe())
    assert artifact.manifest["model"]["spec"] == spec
    assert artifact.manifest["model"]["args"] == {"num_classes": 4}


def test_a_segmentation_network_fetches_no_backbone() -> None:
    assert resolve("torchvision:lraspp_mobilenet_v3_large").trained is False


# -- named weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_by_torchvisions_own_loader(name: str) -> None:
    state = random_state(torchvision.models.resnet18())
    cached_by_torch(state)
    source = resolve("torchvision:resnet18", weights=name)
    assert holds(source.model, state)
    assert source.trained is True
    assert source.weights == f"{name} of torchvision:resnet18"
    assert len(source.classes) == 1000
    assert source.classes[281] == "tabby"


def test_weights_that_torchvision_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loader runs; only the transfer is another: from a file of ours in place of a socket."""
    state = random_state(torchvision.models.resnet18())
    torch.save(state, "remote.pth")
    asked = []

    def transfer(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        shutil.copy("remote.pth", target)

    monkeypatch.setattr("torch.hub.download_url_to_file", transfer)
    assert holds(resolve("torchvision:resnet18", weights="DEFAULT").model, state)
    assert asked == [(f"https://download.pytorch.org/models/{RESNET18}", "f37072fd")]


@pytest.mark.parametrize("name", ["pretrained", "DEFAULT"])
def test_weights_by_timms_own_loader(name: str) -> None:
    state = random_state(timm.create_model("test_resnet"))
    cached_by_huggingface(state, "timm/test_resnet.r160_in1k")
    source = resolve("timm:test_resnet", weights=name)
    assert holds(source.model, state)
    assert source.trained is True
    assert source.weights == f"{name} of timm:test_resnet"


def test_a_name_goes_before_a_file_and_a_path_is_a_file() -> None:
    state = random_state(torchvision.models.resnet18())
    cached_by_torch(state)
    mine = {key: value * 2 for key, value in state.items()}
    torch.save(mine, "DEFAULT")
    assert holds(resolve("torchvision:resnet18", weights="DEFAULT").model, state)
    for file in ("./DEFAULT", Path("DEFAULT")):
        source = resolve("torchvision:resnet18", weights=file)
        assert holds(source.model, {**mine, **{k: v for k, v in mine.items() if not v.is_floating_point()}})
        assert source.weights == "file DEFAULT"
        assert source.classes is None


def test_code_in_a_cached_file_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's loader itself would run it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    cached_by_torch({"fc.weight": Evil()})
    with pytest.raises(exporter.UsageError, match=r"--weights DEFAULT of torchvision:resnet18: refused, .* run code"):
        resolve("torchvision:resnet18", weights="DEFAULT")
    assert not Path("pwned").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    with pytest.raises(RuntimeError, match="loading state_dict"):
        torchvision.models.resnet18(weights="DEFAULT")
    assert Path("pwned").exists(), "otherwise this test would show nothing"


WRONG = {
    "an unknown network": ("torchvision:resnet19", None, {}, r"has no model 'resnet19'. Did you mean .*resnet18"),
    "a far-off network": ("torchvision:zzz", None, {}, r"no model 'zzz'. It has alexnet, .* \(\d+ in all\)"),
    "an unknown network of timm": ("timm:resnet19", None, {}, r"timm has no model 'resnet19'. Did you mean .*resnet18"),
    "an unknown tag": ("timm:resnet18.a1_in1l", None, {}, r"no weights tagged 'a1_in1l'. Did you mean .*a1_in1k"),
    "a network on a hub": ("timm:hf-hub:someone/net", None, {}, r"timm has no model 'hf-hub:someone/net'"),
    "an unknown name of weights": (
        "torchvision:resnet18",
        "IMAGENET1K_V2",
        {},
        r"--weights IMAGENET1K_V2: there is no such file, and torchvision:resnet18 names its weights IMAGENET1K_V1, "
        r"DEFAULT. Did you mean IMAGENET1K_V1",
    ),
    "torchvision's hub out of reach": (
        "torchvision:resnet18",
        "DEFAULT",
        {},
        r"--weights DEFAULT of torchvision:resnet18 cannot be fetched: URLError: .*pass it as --weights FILE",
    ),
    "timm's hub out of reach": (
        "timm:resnet18",
        "pretrained",
        {},
        r"--weights pretrained of timm:resnet18 cannot be fetched: \w+: .*pass it as --weights FILE",
    ),
    "a network without weights": (
        "timm:cspresnet50d",
        "pretrained",
        {},
        r"--weights pretrained: there is no such file, and timm:cspresnet50d has no weights by name",
    ),
    "other classes than torchvision's weights": (
        "torchvision:resnet18",
        "DEFAULT",
        {"num_classes": 10},
        r"resnet18\(num_classes=10\) raised ValueError: .*1000.*10",
    ),
    "other classes than timm's weights": (
        "timm:resnet18",
        "pretrained",
        {"num_classes": 10},
        r"tell 1000 classes apart, not 10: the last layer would be random",
    ),
    "weights by an argument": ("torchvision:resnet18", None, {"weights": "DEFAULT"}, r"'weights' chooses weights"),
    "timm's weights by an argument": ("timm:resnet18", None, {"pretrained": True}, r"'pretrained' chooses weights"),
    "a file by an argument": ("timm:resnet18", None, {"checkpoint_path": "x"}, r"'checkpoint_path' chooses weights"),
    "an unknown argument": (
        "torchvision:resnet18",
        None,
        {"colour": 1},
        r"raised TypeError: .*'colour'. Check --model",
    ),
    "an unknown argument of timm": ("timm:resnet18", None, {"colour": 1}, r"TypeError: .*'colour'. Check --model-args"),
}


@pytest.mark.parametrize(("spec", "weights", "arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_uses(spec: str, weights: str | None, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(exporter.UsageError, match=message) as caught:
        resolve(spec, weights=weights, arguments=arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_what_the_hub_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(io.BytesIO):
        def info(self) -> Message:
            return Message()

    monkeypatch.setattr("torch.hub.urlopen", lambda request: Remote(b"another file"))
    with pytest.raises(exporter.UsageError, match=r"raised RuntimeError: invalid hash value .*f37072fd"):
        resolve("torchvision:resnet18", weights="DEFAULT")
    assert not list(Path("torch/hub/checkpoints").iterdir())
