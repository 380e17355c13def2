"""``exporter/emit/torchscript.py``: the file, loaded on its own, is the explicit module and nothing else."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.emit.torchscript import emit
from exporter.methods import METHODS
from exporter.program import Program, to_module
from tests.emit.networks import BODIES, IMAGE, compiled, explicit, inputs, live, network
from tests.oracle import attribute

pytestmark = [
    pytest.mark.usefixtures("any_network"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


def reload(program: Program, path: Path) -> Any:
    """Write a program and load the file."""
    emit(program, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated.*")
        return torch.jit.load(path)


def kinds(graph: Any) -> Iterator[str]:
    """Every node of a graph and of the blocks inside."""
    for node in graph.nodes():
        yield node.kind()
        for block in node.blocks():
            yield from kinds(block)


@pytest.mark.parametrize("name", BODIES)
def test_equals_eager(name: str, tmp_path: Path) -> None:
    """To the bit, but for convolutions, which sum in another order where channels are last."""
    program = explicit(name)
    convolutions = {"aten.conv2d.default", "aten.conv_transpose2d.input"} & {str(n.target) for n in program.graph.nodes}
    eager, loaded = to_module(program), reload(program, tmp_path / "model.pt")
    for batch in (1, 3):
        case = inputs(batch, IMAGE, program.outputs[0].meta["val"].shape[1])
        for ours, theirs in zip(loaded(*case), eager(*case), strict=True):
            assert ours.is_contiguous()
            if convolutions or name.startswith("addmm"):  # TorchScript's own optimiser makes it a product and a sum
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(ours, theirs)
    used = set(kinds(loaded.inlined_graph))
    assert {kind for kind in used if not kind.startswith(("aten::", "prim::"))} == set()
    assert not used & {"prim::If", "prim::Loop", "prim::PythonOp", "prim::CallFunction", "prim::CallMethod"}
    assert not {kind for kind in used if "backward" in kind or "autograd" in kind.lower() or "grad" in kind}


@pytest.mark.parametrize("name", BODIES)
def test_runs_in_float64(name: str) -> None:
    """As a module: scripting changes nothing of it (see above) and costs time."""
    image, target = inputs(2, IMAGE, explicit(name).outputs[0].meta["val"].shape[1])
    found = to_module(explicit(name)).double()(image.double(), target)
    net = network(name).double()
    try:
        expected = live(net, image.double(), target)
    finally:
        net.float()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * max(1.0, theirs.abs().max().item()))


def test_state_dict_reads_like_the_models(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), nn.Flatten(), nn.Linear(24, 3))
    loaded = reload(compiled(net, IMAGE), tmp_path / "model.pt")
    expected = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert set(loaded.state_dict()) == set(expected)
    for name, value in expected.items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_loaded_file_runs_in_float64(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((4, 3)))
    net = nn.Sequential(net, nn.Flatten(), nn.Linear(24, 3))
    loaded = reload(compiled(net, IMAGE), tmp_path / "model.pt").double()
    image, target = inputs(3, IMAGE, 3)
    for ours, theirs in zip(loaded(image.double(), target), live(net.double(), image.double(), target), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("target", [-3, -2, 3, 2**62])
def test_a_target_outside_the_classes_is_an_error(target: int, tmp_path: Path) -> None:
    loaded = reload(compiled(nn.Linear(4, 3), (4,)), tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="out of bounds"):
        loaded(torch.zeros(2, 4), torch.tensor([0, target]))


def test_the_file_needs_no_gradient(tmp_path: Path) -> None:
    """Its outputs are plain tensors, and it runs where autograd is off altogether."""
    loaded = reload(explicit("conv2d"), tmp_path / "model.pt")
    case = inputs(2, IMAGE, 120)
    with torch.inference_mode():
        logits, attribution = loaded(*case)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert attribution.any()
    assert logits.shape == (2, 120)
    assert not any(value.requires_grad for value in loaded(*case))


def test_nothing_in_the_file_depends_on_the_process(tmp_path: Path) -> None:
    """Classes are numbered within the file, and no record names a count of what else was compiled."""
    for round in range(2):
        reload(explicit("conv2d"), tmp_path / f"{round}.pt")
    records = []
    for round in range(2):
        with zipfile.ZipFile(tmp_path / f"{round}.pt") as archive:
            records.append({name.partition("/")[2]: archive.read(name) for name in archive.namelist()})
    assert records[0] == records[1]
    code = sorted(name for name in records[0] if name.endswith(".py"))
    assert code == [
        "code/__torch__/torch/fx/graph_module/___torch_mangle_0.py",
        *(f"code/__torch__/torch/nn/modules/module/___torch_mangle_{index}.py" for index in range(1, len(code))),
    ]
    assert b"eval_with_key" not in b"".join(records[0].values())


@pytest.mark.parametrize("name", BODIES)
def test_runs_on_the_device_that_it_is_loaded_on(name: str, tmp_path: Path) -> None:
    """PyTorch's device without memory refuses to mix with another, as a GPU does."""
    program = explicit(name)
    emit(program, tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated.*")
        loaded = torch.jit.load(tmp_path / "model.pt", map_location="meta")
    image, target = inputs(3, IMAGE, program.outputs[0].meta["val"].shape[1])
    found = loaded(image.to("meta"), target.to("meta"))
    assert [(one.device.type, one.shape) for one in found] == [
        ("meta", one.shape) for one in to_module(program)(image, target)
    ]


def test_group_norm_has_channels_last_on_a_cpu_alone(tmp_path: Path) -> None:
    graph = reload(explicit("group_norm"), tmp_path / "model.pt").inlined_graph
    (norm,) = graph.findAllNodes("aten::native_group_norm")
    order = next(norm.inputs()).node()
    assert order.kind() == "aten::contiguous"
    chosen = list(order.inputs())[1].node()
    assert chosen.kind() == "aten::mul"
    on_cpu, number = chosen.inputs()
    assert number.toIValue() == 2  # what TorchScript calls torch.channels_last
    assert next(on_cpu.node().inputs()).node().kind() == "prim::is_cpu"


@pytest.mark.parametrize(
    ("norm", "conv", "shape"),
    [
        (nn.GroupNorm(1, 3), nn.Conv2d(3, 4, 3), (3, 6, 6)),
        (nn.InstanceNorm2d(3), nn.Conv2d(3, 4, 3), (3, 6, 6)),
        (nn.InstanceNorm1d(3), nn.Conv1d(3, 4, 3), (3, 6)),
    ],
)
def test_a_norm_of_the_image_itself(norm: nn.Module, conv: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    net = nn.Sequential(norm, conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).eval()
    image, target = torch.randn(2, *shape), torch.tensor([-1, 3])
    net(image)
    program = differentiate(canonicalize(capture(net, image)), METHODS["guided"])
    found = reload(program, tmp_path / "model.pt")(image, target)
    expected = attribute(net, image, target, "guided")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
