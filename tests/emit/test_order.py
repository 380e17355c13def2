"""``exporter/emit/onnx/order.py``: the order is the one that is meant, and the values are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from torch import nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.emit.onnx import translate
from exporter.emit.onnx.order import LATER, masks_first
from exporter.lowering import lower
from exporter.methods import METHODS
from tests.test_exact import NETWORKS, explicit, whole

OUTPUTS = ("logits", "attribution")
KINDS = {"Greater", "Equal", "And", "Not"}
"""What masks are made by."""


def model(network: nn.Module, images: torch.Tensor, early: bool) -> onnx.ModelProto:
    program = differentiate(canonicalize(capture(network, images)), METHODS["guided"])
    return translate(lower(program, "onnxruntime"), OUTPUTS, 18, early_masks=early)


def session(made: onnx.ModelProto, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])


def executed(made: onnx.ModelProto, feed: dict[str, np.ndarray], folder: Path) -> list[tuple[str, str]]:
    """Return the operators and names of nodes in the order in which a session runs them."""
    profiled = session(made, folder / "profile")
    profiled.run(None, feed)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    return [
        (event["args"]["op_name"], event["name"].removesuffix("_kernel_time"))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def feed(images: torch.Tensor, target: list[int]) -> dict[str, np.ndarray]:
    return {"image": images.numpy(), "target": np.array(target)}


@pytest.mark.parametrize("name", ["blocks", "blocks, pools and relu6", "residual, stride 2", "vgg"])
def test_masks_run_in_the_order_of_the_forward_pass(name: str, tmp_path: Path) -> None:
    network, images = whole(name)
    given = feed(images, [-1, 2, 0])
    early, late = (executed(model(network, images, early), given, tmp_path) for early in (True, False))

    def before_the_logits(order: list[tuple[str, str]]) -> int:
        gemm = next(index for index, (kind, _) in enumerate(order) if kind == "Gemm")
        return sum(kind in KINDS and ".vjp" in name for kind, name in order[:gemm])

    masks = [name for kind, name in early if kind in KINDS and ".vjp" in name]
    assert before_the_logits(early) == len(masks) > 1
    assert before_the_logits(late) < len(masks)
    layers = [name.partition(".vjp")[0].removesuffix("_1") for name in masks]  # a ReLU that is called twice
    assert layers == sorted(layers, key=[name for name, _ in network.named_modules()].index)
    cast = min(index for index, (kind, name) in enumerate(early) if kind == "Cast" and ".vjp" in name)
    assert cast > max(index for index, (kind, name) in enumerate(early) if name in masks)  # bytes are kept, not floats


def test_masks_that_need_no_pool_run_before_it(tmp_path: Path) -> None:
    stem = {"conv": nn.Conv2d(3, 16, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 2, 1), "flat": nn.Flatten()}
    network, images = nn.Sequential(OrderedDict(stem, fc=nn.Linear(256, 3))).eval(), torch.randn(3, 3, 10, 10)
    made = model(network, images, True)
    pooled = {"pool"}
    for node in made.graph.node:
        if pooled & set(node.input):
            pooled |= set(node.output)
    order = executed(made, feed(images, [-1, 2, 0]), tmp_path)
    pool = next(index for index, (kind, name) in enumerate(order) if kind == "MaxPool" and ".vjp" not in name)
    before, after = ([name for kind, name in part if kind in KINDS] for part in (order[:pool], order[pool:]))
    assert len(before) == 4  # in each of two phases of rows, two of three taps are compared with the maximum
    assert not pooled & set(before)
    assert {name for name in after if ".vjp" in name} <= pooled


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_values_are_the_same(name: str, method: str) -> None:
    _, images = whole(name)
    lowered = lower(explicit(name, method), "onnxruntime")
    made = [translate(lowered, OUTPUTS, 18, early_masks=early) for early in (True, False)]
    onnx.checker.check_model(made[0], full_check=True)
    sessions = [session(one) for one in made]
    for target in ([-1, 2, 0], [0, 1, 2]):
        found, expected = (one.run(None, feed(images, target)) for one in sessions)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def sizes(value: onnx.ValueInfoProto) -> set[str]:
    return {size.dim_param for size in value.type.tensor_type.shape.dim if size.dim_param}


@pytest.mark.parametrize("name", ["blocks", "blocks, pools and relu6", "residual, stride 2", "vgg"])
def test_the_passes_have_no_shape_in_common(name: str) -> None:
    """But for what the logits or a mask need, all that has a size that varies has it by its other name, casts too."""
    network, images = whole(name)
    made = model(network, images, True)
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    producers = {name: node for node in made.graph.node for name in node.output}
    masks = [node.input[0] for node in made.graph.node if node.op_type == "Shape" and node.name.startswith("masks/")]
    early, waiting = set(), ["logits", *masks]
    while waiting:
        one = waiting.pop()
        if one in producers and one not in early:
            early.add(one)
            waiting += producers[one].input
    images_of = [value for value in inferred.graph.value_info if len(value.type.tensor_type.shape.dim) > 3]
    varying = {value.name: sizes(value) for value in images_of if sizes(value)}
    late = varying.keys() - early
    assert {"Cast", "Conv", "Relu"} <= {producers[name].op_type for name in late}
    assert all(varying[name] == {"batch" + LATER} for name in late)
    assert all(varying[name] == {"batch"} for name in varying.keys() & early)
    assert all(sizes(value) == {"batch"} for value in (*made.graph.input, *made.graph.output))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux's /proc")
def test_a_session_takes_less_memory(tmp_path: Path) -> None:
    """No buffer of the forward pass waits for the backward pass; what the masks are kept in is small beside them."""
    layers = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 1, 2), nn.ReLU()]
    network, images = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), torch.zeros(2, 3, 256, 256)
    made = model(network, images, True)
    grown = []
    for name in ("two names", "one name"):
        path = tmp_path / f"{name}.onnx"
        onnx.save(made, path)
        done = subprocess.run([sys.executable, "-c", GROWTH, path], capture_output=True, text=True, check=True)
        grown.append(int(done.stdout))
        for value in made.graph.value_info:
            for size in value.type.tensor_type.shape.dim:
                size.dim_param = size.dim_param.removesuffix(LATER)
    assert grown[0] < 0.8 * grown[1]


GROWTH = """
import sys
import numpy, onnxruntime

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
feed = {"image": numpy.ones((8, 3, 256, 256), numpy.float32), "target": numpy.zeros(8, numpy.int64)}
before = peak()
for _ in range(3):
    session.run(None, feed)
print(peak() - before)
"""
"""How much the peak of a process grows by while a session runs, in KiB."""


def test_as_many_targets_as_images_are_needed_still() -> None:
    network, images = whole("blocks")
    for early in (True, False):
        with pytest.raises((Fail, InvalidArgument), match="target"):
            session(model(network, images, early)).run(None, feed(images, [0, 1]))


def test_without_a_mask_nothing_changes() -> None:
    network, images = nn.Sequential(nn.Linear(4, 3)).eval(), torch.zeros(3, 4)
    assert model(network, images, True) == model(network, images, False)


def test_masks_of_the_forward_pass_stay() -> None:
    """A comparison that the logits need runs in time as it is."""

    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (x > 1)

    images = torch.randn(3, 4)
    assert model(Gate(), images, True) == model(Gate(), images, False)


def test_a_mask_may_depend_on_another() -> None:
    """Such a one comes as late as the other's numbers do, and every node after what it reads."""
    nodes = [
        helper.make_node("Greater", ["image", "zero"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["image", "number"], ["less"]),
        helper.make_node("Greater", ["less", "zero"], ["second"]),
        helper.make_node("Cast", ["second"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["target"], ["row"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["row", "number"], ["product"]),
        helper.make_node("Mul", ["product", "again"], ["attribution"]),
        helper.make_node("Neg", ["image"], ["logits"]),
    ]
    kinds = {"image": TensorProto.FLOAT, "target": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, ["batch"]) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in OUTPUTS]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "masks", inputs, outputs, [zero])
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    masks_first(made.graph, "target", "logits")
    onnx.checker.check_model(made, full_check=True)
    assert [node.input[0] for node in made.graph.node if node.op_type == "Shape"] == ["mask"]
    given = {"image": np.array([-1, 0.5, 2], np.float32), "target": np.array([1, 2, 3])}
    assert session(made).run(None, given)[1].tolist() == [0, 0, 3]


def test_a_module_may_have_the_name_of_the_nodes() -> None:
    class Masks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.masks = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.masks(x)
            return torch.cat([torch.relu(x - 1), torch.relu(x)], 1)

    network, images = Masks().eval(), torch.randn(3, 4)
    made = [model(network, images, early) for early in (True, False)]
    names = [node.name for node in made[0].graph.node]
    assert len(names) == len(set(names))
    found, expected = (session(one).run(None, feed(images, [0, 1, 2])) for one in made)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
