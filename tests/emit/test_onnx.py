"""``exporter/emit/onnx``: every operator in every operator set, run by onnxruntime, against eager and autograd."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import exporter
from exporter.capture import capture
from exporter.emit.onnx import MAX_OPSET, MIN_OPSET, TRANSLATIONS, emit, translate
from exporter.errors import UnsupportedModel, UnsupportedOp
from exporter.lowering import lower
from exporter.pipeline import write
from exporter.program import Program, to_module
from exporter.rules import NO_GRADIENT, VJPS
from tests.emit.networks import BODIES, IMAGE, compiled, explicit, inputs, live, network

OUTPUTS = ("logits", "attribution")
pytestmark = [
    pytest.mark.usefixtures("any_network"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]
OPSETS = (MIN_OPSET, 18, MAX_OPSET)


def run(model: onnx.ModelProto, image: Tensor, target: Tensor) -> list[Tensor]:
    """Run a model in a fresh session."""
    return Session(model)(image, target)


class Session:
    """A model in onnxruntime; its own optimiser is off, so that what runs is what we wrote, and it starts fast."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def __call__(self, image: Tensor, target: Tensor) -> list[Tensor]:
        feed = {"image": image.numpy(), "target": target.numpy()}
        return [torch.from_numpy(value) for value in self._session.run(list(OUTPUTS), feed)]


def assert_valid(model: onnx.ModelProto) -> None:
    """Check a model in full, and that strict inference agrees with the shapes that we wrote."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert {value.name for value in inferred.graph.value_info} >= {value.name for value in model.graph.value_info}


def pads(model: onnx.ModelProto) -> list[tuple[list[int], list[int]]]:
    """Return what each ConvTranspose cuts at the begin and at the end of its axes."""
    nodes = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    found = [list(one.ints) for node in nodes for one in node.attribute if one.name == "pads"]
    return [(both[: len(both) // 2], both[len(both) // 2 :]) for both in found]


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", BODIES)
def test_runs_like_eager_and_autograd(name: str) -> None:
    program = explicit(name)
    classes = program.outputs[0].meta["val"].shape[1]
    cases = [inputs(batch, IMAGE, classes) for batch in (1, 3)]
    eager = [to_module(program)(*case) for case in cases]
    for case, found in zip(cases, eager, strict=True):
        for ours, theirs in zip(found, live(network(name), *case), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    models = [translate(program, OUTPUTS, opset) for opset in OPSETS]
    if any(begin != end for begin, end in pads(models[0])):
        models.append(translate(program, OUTPUTS, MAX_OPSET, symmetric_pads=True))
    for model in models:
        assert_valid(model)
        assert dims(model.graph.output[0]) == ["batch", classes]
        assert dims(model.graph.output[1]) == ["batch", *IMAGE]
        session = Session(model)  # one for both batches
        for case, expected in zip(cases, eager, strict=True):
            for ours, theirs in zip(session(*case), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


NOT_IN_HALF = {"avg_pool3d", "distances", "local_response_norm", "upsample antialiased"}
"""What PyTorch does not compute in float16 on a CPU."""


def test_what_there_is_not_in_half_is_said() -> None:
    for name in NOT_IN_HALF:
        with pytest.raises(UnsupportedModel, match="not implemented for 'Half'"):
            capture(copy.deepcopy(network(name)).half(), torch.zeros(1, *IMAGE, dtype=torch.float16))


@pytest.mark.parametrize("name", BODIES)
def test_types_fit_in_another_dtype(name: str) -> None:
    """Also where onnxruntime has no kernel: it is not run. What is of float32 by mistake fits in no other dtype."""
    dtype = torch.float64 if name in NOT_IN_HALF else torch.float16
    net = copy.deepcopy(network(name)).to(dtype)
    program = compiled(net, IMAGE, dtype=dtype)
    assert program.outputs[1].meta["val"].dtype == dtype
    assert_valid(translate(program, OUTPUTS, MAX_OPSET))


def test_every_translation_has_a_network() -> None:
    """A new translation needs a line in the table of networks, and one that a pass alone writes a network for that."""
    exercised = {node.target for name in BODIES for node in explicit(name).graph.nodes}
    for name in ("conv2d uncovered rows", "max_pool2d"):
        exercised |= {node.target for node in lower(explicit(name), "openvino").graph.nodes}
    assert set(TRANSLATIONS) - exercised == set()


def test_every_rule_has_a_translation() -> None:
    """What can be differentiated can be written."""
    assert ({op for op, _ in VJPS} | NO_GRADIENT) - set(TRANSLATIONS) == set()


# -- what the file looks like ----------------------------------------------------------------------------------


class Block(nn.Module):
    """A conv, a norm, one ReLU used twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.again = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.again.weight = self.conv.weight
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.again(self.relu(self.bn(self.conv(x)))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.mul = nn.Parameter(torch.randn(1))  # named as an operator is
        self.head = nn.Linear(90, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.blocks(x) * self.mul * 2).flatten(1))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(net: Net) -> Program:
    return compiled(net, IMAGE)


@pytest.fixture(scope="module")
def model(program: Program) -> onnx.ModelProto:
    return translate(program, OUTPUTS, 18)


def test_weights_are_stored_once_under_their_own_names(net: Net, model: onnx.ModelProto) -> None:
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if not re.fullmatch(r"constant\.\d+", tensor.name)
    }
    state = net.state_dict()
    assert set(weights) <= set(state)
    for name, array in weights.items():
        assert torch.equal(torch.from_numpy(array.copy()), state[name])
    contents = [tensor.raw_data for tensor in model.graph.initializer if len(tensor.raw_data) >= 64]
    assert len(contents) == len(set(contents)) == 3  # two shared conv weights and the head's
    shared = {name for name in weights if name.endswith((".conv.weight", ".again.weight"))}
    assert {name.split(".")[1] for name in shared} == {"0", "1"}
    assert len(shared) == 2


def test_names_say_where_a_node_comes_from(model: onnx.ModelProto) -> None:
    names = [node.name for node in model.graph.node]
    values = [name for node in model.graph.node for name in node.output]
    assert max(Counter(names).values()) == 1
    assert max(Counter(values).values()) == 1
    assert {
        "blocks.0.conv",
        "blocks.1.conv",
        "blocks.1.again.vjp/ConvTranspose",
        "blocks.0.bn",
        "blocks.0.relu",
        "blocks.0.relu_1",
        "blocks.1.relu_1",
        "head",
        "head.vjp",
    } <= set(names)
    assert [name for name in names if name.startswith("blocks.0.relu_1.vjp/")]
    modules = r"blocks\.\d\.(conv|again|bn|relu|add)|mul|head|flatten|reshape|target"
    places = re.compile(rf"({modules})(_\d+)*(\.vjp)?(/\w+)?$")
    assert [name for name in names if not places.match(name)] == []


def test_the_interface(model: onnx.ModelProto) -> None:
    assert [(value.name, dims(value)) for value in model.graph.input] == [
        ("image", ["batch", *IMAGE]),
        ("target", ["batch"]),
    ]
    assert [(value.name, dims(value)) for value in model.graph.output] == [
        ("logits", ["batch", 4]),
        ("attribution", ["batch", *IMAGE]),
    ]
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT]
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan"}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_the_file_says_what_it_is(model: onnx.ModelProto) -> None:
    assert (model.producer_name, model.producer_version) == ("saliport", exporter.__version__)
    _, target = model.graph.input
    assert target.doc_string == "For each sample the class to explain, 0 to 3, or -1: the predicted one."
    logits, attribution = model.graph.output
    assert logits.doc_string == "What the network returns."
    assert attribution.doc_string.endswith(" of the derivative of logits[target] by image.")


def test_emit_writes_the_same_model(program: Program, model: onnx.ModelProto, tmp_path: Path) -> None:
    emit(program, tmp_path / "model.onnx", OUTPUTS, 18)
    assert onnx.load(tmp_path / "model.onnx") == model


def test_weights_that_no_file_holds_are_refused(program: Program, tmp_path: Path) -> None:
    weights = {"table": torch.zeros(1).expand(6 * 10**8)}  # 2.4 GB to write, 4 bytes to hold
    with pytest.raises(
        UnsupportedModel, match=r"holds up to 2 GB, and these weights are 2\.4 GB; .*--format torchscript"
    ):
        emit(dataclasses.replace(program, tensors=weights), tmp_path / "model.onnx", OUTPUTS, 18)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", [-3, -2, 4, 5, 2**62])
def test_a_target_outside_the_classes_is_an_error(model: onnx.ModelProto, target: int) -> None:
    with pytest.raises(Exception, match=r"[Oo]ut of|indices element out of data bounds|[Ii]nvalid"):
        run(model, torch.zeros(2, *IMAGE), torch.tensor([0, target]))


# -- corners ---------------------------------------------------------------------------------------------------


class Itself(nn.Module):
    """Logits that are the image, so that an input is an output."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_an_input_may_be_an_output() -> None:
    model = translate(compiled(Itself(), (4,)), OUTPUTS, 18)
    assert_valid(model)
    image = torch.tensor([[1.0, 2.0, 4.0, 3.0], [1.0, 2.0, 4.0, 3.0]])
    logits, attribution = run(model, image, torch.tensor([-1, 0]))
    assert torch.equal(logits, image)
    assert attribution.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_zeros_around_the_image_become_the_convs_padding() -> None:
    """Not a Pad of its own, where the Conv can do it."""
    kinds = Counter(node.op_type for node in translate(explicit("pad before conv2d"), OUTPUTS, 18).graph.node)
    assert kinds["Pad"] == 0
    assert kinds["Conv"] == 1


def test_a_crop_becomes_the_conv_transposes() -> None:
    """PyTorch's cuts both ends alike, ONNX's each by itself; what is in front of the image stays a Pad."""
    graph = translate(explicit("crop after conv_transpose1d"), OUTPUTS, 18).graph
    (forward,) = (node for node in graph.node if node.op_type == "ConvTranspose" and ".vjp" not in node.name)
    (pads,) = (list(attribute.ints) for attribute in forward.attribute if attribute.name == "pads")
    assert pads == [0, 1]
    assert [node.op_type for node in graph.node if forward.output[0] in node.input] == ["Pad"]


@pytest.mark.parametrize("target", ["cuda", "portable"])
@pytest.mark.parametrize("name", ["conv transpose output padding", "crop after conv_transpose1d", "conv transpose 3d"])
def test_pads_of_a_file_for_other_devices_are_symmetric(name: str, target: str, tmp_path: Path) -> None:
    """Onnxruntime has no ConvTranspose on a GPU whose pads are not."""
    program = explicit(name)
    assert any(begin != end for begin, end in pads(translate(program, OUTPUTS, 18)))
    write(program, "onnx", tmp_path / "model.onnx", optimize_for=target)
    found = pads(onnx.load(tmp_path / "model.onnx"))
    assert found
    assert all(begin == end for begin, end in found)


def test_whole_numbers_agree_to_the_bit() -> None:
    """Ties in a max-pool and zeros at a rectifier."""
    torch.manual_seed(0)
    conv, pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1)
    net = nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), nn.Linear(36, 5))
    for parameter in net.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    image = torch.randint(-2, 3, (3, *IMAGE)).float()
    target = torch.tensor([0, -1, 4])
    found = run(translate(compiled(net, IMAGE), OUTPUTS, 18), image, target)
    for ours, theirs in zip(found, live(net, image, target), strict=True):
        assert torch.equal(ours, theirs)


def test_an_operator_without_translation_is_named_with_its_place() -> None:
    translation = TRANSLATIONS.pop(torch.ops.aten.exp.default)
    try:
        net = nn.Sequential(nn.Flatten(), Exponential(), nn.Linear(90, 2))
        with pytest.raises(UnsupportedOp) as error:
            translate(compiled(net, IMAGE), OUTPUTS, 18)
    finally:
        TRANSLATIONS[torch.ops.aten.exp.default] = translation
    assert re.fullmatch(
        r"aten\.exp\.default has no ONNX translation \(1, .*test_onnx\.py:\d+\)\. Translations are functions in "
        r'exporter/emit/onnx; see CONTRIBUTING\.md, "Adding an operator"\.',
        str(error.value),
    )


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Digamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.digamma(x)


def test_an_operator_without_rule_is_named_with_its_place() -> None:
    with pytest.raises(UnsupportedOp) as error:
        compiled(Digamma(), (4,))
    assert re.fullmatch(
        r"aten\.digamma\.default has no vjp rule \(digamma, .*test_onnx\.py:\d+\)\. "
        r"Rules are functions in exporter/rules; "
        r'see CONTRIBUTING\.md, "Adding an operator"\.',
        str(error.value),
    )


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_the_ir_version_is_the_operator_sets_own(opset: int) -> None:
    """A newer one is refused by runtimes that have the opset."""
    model = translate(explicit(next(iter(BODIES))), OUTPUTS, opset)
    assert model.ir_version == onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset]
