"""Each pass alone: that it fires where its formula applies, that it leaves the rest, and that values stay exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.lowering import PASSES, lower, pooling, stem
from exporter.lowering.convolution import Transposed, interleave, joint_phases, shuffle, swap
from exporter.lowering.pooling import compare_taps, tap_phases
from exporter.lowering.rewrite import Pass, apply
from exporter.lowering.stem import transposed_phases
from exporter.methods import METHODS
from exporter.program import Program, scope_of, to_module
from exporter.sources import resolve
from tests import test_exact
from tests.test_exact import Residual, whole, whole_numbers

aten = torch.ops.aten
BY_NAME = {one.name: one for passes in PASSES.values() for one in passes}


def explicit(name: str, method: str = "guided") -> tuple[Program, torch.Tensor]:
    return test_exact.explicit(name, method), whole(name)[1]


def count(program: Program) -> Counter[str]:
    return Counter(str(node.target).removeprefix("aten.") for node in program.graph.nodes if node.op == "call_function")


CASES = [
    # pass, network, operators that go, operators that come
    ("row of weight", "vgg", {"scatter.value": 1, "matmul.default": 1}, {"index_select.default": 1}),
    ("positive part", "vgg", {"mul.Tensor": 2, "gt.Scalar": 2}, {"relu.default": 2}),
    ("broadcast", "average pools", {"expand.default": 1}, {}),
    ("compare taps", "vgg", {"scatter_add.default": 2}, {"eq.Tensor": 6}),
    (
        "compare taps",
        "resnet stem",
        {"scatter_add.default": 1},
        {"eq.Tensor": 6, "max_pool2d_with_indices.default": 1},
    ),
    ("pooled mask", "vgg", {"scatter_add.default": 2}, {"relu.default": 2}),
    ("flip kernel", "vgg", {"conv_transpose2d.input": 2}, {"conv2d.default": 2, "flip.default": 2}),
    ("stride phases", "depthwise, relu6", {"conv_transpose2d.input": 1}, {"conv2d.default": 4}),
    ("fold scale", "resnet stem", {}, {"mul.Tensor": 0, "reshape.default": 1}),
    ("add phases", "residual, stride 2", {"conv_transpose2d.input": 2}, {"conv2d.default": 5}),
    ("shuffled phases", "depthwise, relu6", {"conv_transpose2d.input": 1}, {"pixel_shuffle.default": 1}),
    ("add shuffled phases", "residual, stride 2", {"conv_transpose2d.input": 2}, {"pixel_shuffle.default": 1}),
    ("joint phases", "resnet stem", {"conv_transpose2d.input": 1}, {"conv2d.default": 1, "pixel_shuffle.default": 1}),
    ("selected mask", "vgg", {"gt.Scalar": 2, "mul.Tensor": 4}, {"where.ScalarOther": 2, "relu.default": 2}),
    ("selected taps", "resnet stem", {"scatter_add.default": 1}, {"where.ScalarOther": 6, "pixel_shuffle.default": 1}),
    ("selected pooled mask", "vgg", {"scatter_add.default": 2}, {"where.ScalarOther": 8, "relu.default": 2}),
    ("one-pass mask", "vgg", {"gt.Scalar": 4, "mul.Tensor": 4}, {"leaky_relu_backward.default": 2, "relu.default": 2}),
    ("pool gradient", "vgg", {"scatter_add.default": 2}, {"max_pool2d_with_indices_backward.default": 2}),
    ("pool gradient", "resnet stem", {"scatter_add.default": 1}, {"max_pool2d_with_indices_backward.default": 1}),
    ("masked scatter", "vgg", {"mul.Tensor": 4, "gt.Scalar": 2}, {"where.ScalarOther": 2, "relu.default": 2}),
    ("masked scatter", "resnet stem", {"scatter_add.default": 0}, {"where.ScalarOther": 1}),
    (
        "masked pool gradient",
        "vgg",
        {"scatter_add.default": 2},
        {"max_pool2d_with_indices_backward.default": 2, "leaky_relu_backward.default": 2},
    ),
    ("fold batch norm", "resnet stem", {"batch_norm.default": 1}, {"sub.Tensor": 2}),
    ("blocked pool", "blocks", {"scatter_add.default": 1}, {"eq.Tensor": 6, "conv2d.default": 6}),
    ("blocked pool", "blocks, pools and relu6", {"scatter_add.default": 2}, {"eq.Tensor": 6, "conv2d.default": 6}),
    ("phased stem", "resnet stem", {"scatter_add.default": 1}, {"conv_transpose2d.input": 3, "eq.Tensor": 6}),
    ("phased stem", "inception stem", {"scatter_add.default": 1}, {"conv_transpose2d.input": 3, "eq.Tensor": 6}),
    (
        "phased stem",
        "stem whose pool comes first",
        {"scatter_add.default": 1},
        {"conv_transpose2d.input": 3, "eq.Tensor": 3},
    ),
    ("pointwise phases", "inverted bottleneck", {"conv_transpose2d.input": 2, "gt.Scalar": 1}, {"conv2d.default": 18}),
    ("pointwise phases", "bottleneck, stride 2", {"conv_transpose2d.input": 2, "gt.Scalar": 1}, {"stack.default": 3}),
    ("add pointwise phases", "bottleneck, stride 2", {"conv_transpose2d.input": 3}, {"stack.default": 3}),
    ("added mask", "blocks, pools and relu6", {"mul.Tensor": 4}, {"conv2d.default": 2, "add.Tensor": 2}),
    ("blocked mask", "blocks", {"mul.Tensor": 6, "gt.Scalar": 6}, {"conv2d.default": 8, "add.Tensor": 3}),
    ("blocked mask", "blocks, pools and relu6", {"gt.Scalar": 8, "lt.Scalar": 2}, {"conv2d.default": 12}),
    ("blocked mask", "blocks beside nothing", {"gt.Scalar": 14, "lt.Scalar": 2}, {"conv2d.default": 17}),
    ("blocked mask", "blocks beside each other", {"gt.Scalar": 6}, {"conv2d.default": 8}),
    (
        "blocked pointwise phases",
        "inverted bottleneck",
        {"conv_transpose2d.input": 2, "gt.Scalar": 2, "lt.Scalar": 1},
        {"conv2d.default": 20},
    ),
    (
        "add blocked pointwise phases",
        "bottleneck, stride 2",
        {"conv_transpose2d.input": 3, "gt.Scalar": 2},
        {"stack.default": 3},
    ),
]


@pytest.mark.parametrize(("name", "network", "gone", "come"), CASES, ids=[f"{case[0]}, {case[1]}" for case in CASES])
def test_a_pass_fires_and_keeps_every_value(
    name: str, network: str, gone: dict[str, int], come: dict[str, int]
) -> None:
    # Under the guided rule the comparison g > 0 still needs the expanded cotangent.
    program, images = explicit(network, "gradient" if name == "broadcast" else "guided")
    lowered = apply(program, [BY_NAME[name]])
    before, after = count(program), count(lowered)
    assert {op: before[op] - after[op] for op in gone} == gone
    assert {op: after[op] - before[op] for op in come} == come
    target = torch.tensor([-1, 2, 0])
    for found, expected in zip(to_module(lowered)(images, target), to_module(program)(images, target), strict=True):
        assert torch.equal(found, expected)


def test_every_pass_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(BY_NAME)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("flip kernel", "resnet stem"),  # a stride
        ("stride phases", "vgg"),  # no stride
        ("stride phases", "resnet stem"),  # three channels do not fill a block
        ("add phases", "vgg"),
        ("compare taps", "linear"),
        ("pooled mask", "pool before the rectifier"),
        ("masked scatter", "pool before the rectifier"),
        ("broadcast", "linear"),
        ("fold scale", "vgg"),  # no batch norm
        ("joint phases", "vgg"),  # no stride
        ("joint phases", "groups, strides, dilation"),  # groups, and strides that differ
        ("shuffled phases", "vgg"),
        ("add shuffled phases", "vgg"),
        ("blocked pool", "vgg"),  # eight channels do not fill a block
        ("phased stem", "vgg"),  # no stride
        ("phased stem", "depthwise, relu6"),  # no pool
        ("pointwise phases", "depthwise, relu6"),  # eight channels do not fill a block, and no pointwise one before
        ("add pointwise phases", "residual, stride 2"),  # nothing pointwise
        ("added mask", "vgg"),
        ("added mask", "blocks"),  # the shortcut has a gradient of the same cotangent
        ("added mask", "groups, strides, dilation"),  # groups of several channels
        ("blocked mask", "vgg"),  # eight channels do not fill a block
        ("blocked mask", "average pools"),
        ("add blocked pointwise phases", "residual, stride 2"),  # nothing pointwise
    ],
)
def test_a_pass_leaves_what_its_formula_does_not_cover(name: str, network: str) -> None:
    program, _ = explicit(network)
    assert count(apply(program, [BY_NAME[name]])) == count(program)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("added mask", "blocks, pools and relu6"),
        ("pointwise phases", "inverted bottleneck"),
        ("add pointwise phases", "bottleneck, stride 2"),
        ("blocked mask", "blocks beside nothing"),
        ("blocked pointwise phases", "inverted bottleneck"),
        ("add blocked pointwise phases", "bottleneck, stride 2"),
    ],
)
def test_only_float32_is_computed_in_blocks(name: str, network: str) -> None:
    model, images = whole(network)
    program = differentiate(canonicalize(capture(model.double(), images.double())), METHODS["guided"])
    assert count(apply(program, [BY_NAME[name]])) == count(program)


def normalised(conv: nn.Module, norm: nn.Module, *rest: nn.Module) -> tuple[Program, torch.Tensor]:
    """Return a network of a convolution and a batch norm in whole numbers."""
    generator = torch.Generator().manual_seed(0)
    model = whole_numbers(nn.Sequential(conv, norm, *rest, nn.Flatten()).eval(), generator)
    images = torch.randint(-3, 4, (3, 4, 7, 7), generator=generator).float()
    return differentiate(canonicalize(capture(model, images)), METHODS["guided"]), images


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{"bias": False}, {"stride": 2, "groups": 2}, {"padding": "same", "dilation": 2}, {"stride": 2, "padding": 1}],
)
def test_both_passes_read_one_scaled_weight(settings: dict[str, Any], affine: bool) -> None:
    program, images = normalised(nn.Conv2d(4, 8, 3, **settings), nn.BatchNorm2d(8, eps=0, affine=affine), nn.ReLU())
    lowered = lower(program, "onnxruntime")
    found = count(lowered)
    assert (found["batch_norm.default"], found["rsqrt.default"]) == (0, 1)
    scaled = [node for node in lowered.graph.nodes if node.target is aten.mul.Tensor and node.meta["val"].ndim == 4]
    (weight,) = (node for node in scaled if node.meta["val"].shape[0] == 8)
    (forward,) = (node for node in lowered.graph.nodes if node.target is aten.conv2d.default and weight in node.args)
    assert scope_of(forward) == "0"
    assert len(weight.users) > 1
    target = torch.tensor([-1, 2, 0])
    for ours, theirs in zip(to_module(lowered)(images, target), to_module(program)(images, target), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Identity(), nn.BatchNorm2d(4, eps=0)),
        lambda: (nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4, eps=0)),
        lambda: (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.BatchNorm2d(4, eps=0)),
        lambda: (Twice(), nn.Identity()),
        lambda: (WeightsOfTheImage(), nn.BatchNorm2d(4, eps=0)),
    ],
    ids=["no convolution", "a transposed one", "a rectifier between", "another reader", "weights that vary"],
)
def test_other_batch_norms_stay(layers: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    program, images = normalised(*layers())
    lowered = lower(program, "onnxruntime")
    assert count(lowered)["batch_norm.default"] == 1
    target = torch.tensor([-1, 2, 0])
    for ours, theirs in zip(to_module(lowered)(images, target), to_module(program)(images, target), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_norm_in_float16_stays() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten()).eval().half()
    program = differentiate(canonicalize(capture(model, torch.zeros(2, 4, 3, 3).half())), METHODS["guided"])
    assert count(lower(program, "onnxruntime"))["batch_norm.default"] == 1


class Twice(nn.Module):
    """Something else reads what a batch norm normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.norm(y)


class WeightsOfTheImage(nn.Module):
    """A kernel that depends on the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(x, x[:1, :1, :1, :1].detach().abs().expand(4, 4, 1, 1))


def test_what_is_computed_from_weights_is_shared() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        same = x @ (w * 2) + x @ (w * 2)
        return same + x @ (w * 2.0) + (x * 2) @ w + (x * 2) @ w

    program = differentiate(canonicalize(capture(Forward(forward).eval(), torch.zeros(2, 4))), METHODS["gradient"])
    before, products = count(program)["mul.Tensor"], count(program)["matmul.default"]
    shared = apply(program, ())
    assert before - count(shared)["mul.Tensor"] == 1  # not of values that depend on the image, nor by another number
    assert count(shared)["matmul.default"] == products
    image, target = torch.randint(-3, 4, (3, 4)).float(), torch.tensor([-1, 2, 0])
    for ours, theirs in zip(to_module(shared)(image, target), to_module(program)(image, target), strict=True):
        assert torch.equal(ours, theirs)


def test_a_dilated_pool_keeps_its_scatter() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1, dilation=2), nn.Flatten(), nn.Linear(9, 2)).eval()
    program = differentiate(canonicalize(capture(model, torch.zeros(1, 1, 5, 5))), METHODS["guided"])
    assert count(apply(program, [BY_NAME["compare taps"]]))["scatter_add.default"] == 1


@pytest.mark.parametrize("settings", [{"stride": 2, "dilation": 2}, {"stride": 1, "dilation": 2}, {"stride": 3}])
@pytest.mark.parametrize("target", ["cuda", "torchscript"])
def test_positive_parts_are_taken_of_sums(target: str, settings: dict[str, int]) -> None:
    """Windows overlap where they are dilated, although the stride is as long as the kernel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, **settings), nn.Flatten(), nn.LazyLinear(3)).eval()
    images = torch.randint(-3, 9, (3, 2, 9, 8)).float()
    model(images)
    model.requires_grad_(False)[3].weight.copy_(torch.randint(-4, 5, model[3].weight.shape))
    program = differentiate(canonicalize(capture(model, images)), METHODS["guided"])
    lowered = lower(program, target)
    assert count(lowered)["relu.default"] == 2
    classes = torch.tensor([-1, 2, 0])
    found, expected = (to_module(one)(images, classes)[1] for one in (lowered, program))
    assert torch.equal(found, expected)


class Forward(nn.Module):
    """A forward pass that looks like what a pass is for, but is not."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randint(-2, 3, (4, 4)).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


LOOK_ALIKES = {
    "another cotangent": lambda x, w: x * (x.flip(1) > 0) @ w,
    "a comparison with one": lambda x, w: x * (x > 1) @ w,
    "a number between": lambda x, w: x * 0.5 * (x > 0) @ w,
    "a narrow factor between": lambda x, w: (e := x[:, :1].expand(-1, 4)) * w[0, :1] * (e > 0) @ w,
    "a scatter along the batch": lambda x, w: (
        torch.zeros_like(x).scatter(0, torch.zeros_like(x[:, :1]).long(), 1.0) * x.sum(1, keepdim=True) @ w
    ),
    "a scatter of one row": lambda x, w: torch.zeros_like(x).scatter(1, x.argmax(1)[:, None], 1.0) @ w + x,
    "a scatter of twos": lambda x, w: torch.zeros_like(x).scatter(1, x.argmax(1)[:, None], 2.0) @ w + x,
    "a scale from the image": lambda x, w: torch.conv_transpose2d(
        x.reshape(-1, 4, 1, 1) * x.reshape(-1, 4, 1, 1), w.reshape(4, 1, 2, 2)
    ).flatten(1),
    "an output padding": lambda x, w: torch.conv_transpose2d(
        x.reshape(-1, 1, 2, 2), w.reshape(1, 1, 4, 4), output_padding=1, dilation=2
    ).flatten(1),
    "upsamplings with a bias": lambda x, w: torch.add(
        *(
            torch.conv_transpose2d(x.reshape(-1, 4, 1, 1), w.repeat(1, 32).reshape(4, 32, 2, 2), bias.repeat(2), 2)
            for bias in (w.flatten(), w.T.flatten())
        )
    ).flatten(1),
    # capture's example has a batch of 2: a factor [2, 2] must not be taken for one with a batch
    "a factor as long as the example's batch": lambda x, w: (x[:, :1, None].expand(-1, 2, 2) * w[:2, :2]).flatten(1),
    "a stride on one pixel": lambda x, w: torch.relu(
        torch.conv2d(x.reshape(-1, 4, 1, 1).repeat(1, 2, 1, 1), w.repeat(2, 2)[..., None, None], stride=2)
    ).flatten(1),
}


@pytest.mark.parametrize("target", PASSES)
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_keep_their_values(name: str, target: str) -> None:
    torch.manual_seed(0)
    model = Forward(LOOK_ALIKES[name]).eval()
    program = differentiate(canonicalize(capture(model, torch.zeros(1, 4))), METHODS["gradient"])
    images, wanted = torch.randint(-3, 4, (3, 4)).float(), torch.tensor([0, 1, 2])
    found = to_module(lower(program, target))(images, wanted)
    for value, expected in zip(found, to_module(program)(images, wanted), strict=True):
        assert value.shape == expected.shape
        assert torch.equal(value, expected)
    assert torch.equal(found[0], model(images))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_swap_is_what_a_transposed_convolution_needs(groups: int) -> None:
    weight = torch.randn(8, 4 // groups, 1, 1)
    ct = torch.randn(2, 8, 3, 3)
    expected = torch.conv_transpose2d(ct, weight, groups=groups)
    torch.testing.assert_close(torch.conv2d(ct, swap(weight, groups), groups=groups), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [
        (2, 2, 0, False),
        (3, 2, 1, False),
        (3, 1, 1, False),
        (5, 3, 2, True),
        (2, 3, 0, True),
        ((3, 2), (1, 2), (1, 0), True),
        ((4, 5), (3, 1), (0, 2), False),  # a phase of rows that one tap reads, and the image goes on below its windows
    ],
)
@pytest.mark.parametrize("size", [(7, 8), (9, 10), (12, 5)])
def test_comparing_taps_equals_autograd_with_ties(kernel, stride, padding, ceil: bool, size: tuple[int, int]) -> None:
    _compare(kernel, stride, padding, ceil, size)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(13, 1, 6), (9, 2, 4), (5, 3, 2), ((3, 13), (2, 1), (1, 6)), (2, 4, 1)]
)
@pytest.mark.parametrize("size", [(2, 2), (1, 3), (4, 1)])
def test_taps_that_are_never_inside_the_image_are_left_out(kernel, stride, padding, size: tuple[int, int]) -> None:
    """Spatial pyramids pool small images with large kernels."""
    _compare(kernel, stride, padding, False, size)


def _compare(kernel, stride, padding, ceil: bool, size: tuple[int, int]) -> None:
    x = torch.randint(-1, 2, (2, 3, *size)).float().requires_grad_()
    y = torch.max_pool2d(x, kernel, stride, padding, 1, ceil)
    ct = torch.randint(-3, 4, y.shape).float()
    (expected,) = torch.autograd.grad(y, x, ct, retain_graph=True)
    both = [*([v, v] if isinstance(v, int) else list(v) for v in (kernel, stride, padding)), [1, 1], ceil]
    assert torch.equal(compare_taps(ct, y.detach(), x.detach(), *both), expected)
    above, masked = x.detach().relu(), y.detach().relu()
    (expected,) = torch.autograd.grad(y, x, ct * (y > 0), retain_graph=True)
    assert torch.equal(compare_taps(ct * (masked > 0), masked, above, *both, blocked=True), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((7, 7), 2, 3), ((3, 3), 2, 1), ((4, 4), 4, 0), ((5, 5), 3, 2), ((2, 2), 3, 0), ((7, 3), 2, (3, 0))],
)
@pytest.mark.parametrize("size", [(16, 16), (15, 14), (13, 19)])
def test_joint_phases_equal_a_transposed_convolution(kernel, stride: int, padding, size: tuple[int, int]) -> None:
    x = torch.randint(-3, 4, (2, 3, *size)).float().requires_grad_()
    weight = torch.randint(-3, 4, (5, 3, *kernel)).float()
    y = torch.conv2d(x, weight, None, stride, padding)
    ct = torch.randint(-3, 4, y.shape).float()
    (expected,) = torch.autograd.grad(y, x, ct)
    both = [[v, v] if isinstance(v, int) else list(v) for v in (stride, padding)]
    assert torch.equal(joint_phases(Transposed(ct, weight, size, *both, [1, 1], 1)), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((7, 7), 2, 3),
        ((3, 3), 2, 0),
        ((3, 3), 2, 1),
        ((5, 4), (2, 3), (2, 0)),
        ((3, 3), 1, 5),
        ((9, 9), 2, 4),
        ((2, 2), 4, 0),
    ],
)
@pytest.mark.parametrize("count", [(2, 2), (3, 3), (2, 1)])
@pytest.mark.parametrize("size", [(23, 24), (15, 14), (31, 9)])
def test_transposing_phases_equals_transposing_the_whole(
    kernel, stride, padding, count: tuple[int, int], size: tuple[int, int]
) -> None:
    stride, padding = ([v, v] if isinstance(v, int) else list(v) for v in (stride, padding))
    x = torch.zeros(2, 3, *size, requires_grad=True)
    weight = torch.randint(-3, 4, (5, 3, *kernel)).float()
    y = torch.conv2d(x, weight, None, stride, padding)
    ct = torch.randint(-3, 4, y.shape).float()
    (expected,) = torch.autograd.grad(y, x, ct)
    parts = [[ct[:, :, row :: count[0], column :: count[1]] for column in range(count[1])] for row in range(count[0])]
    given = [[part if part.numel() else None for part in columns] for columns in parts]
    assert torch.equal(transposed_phases(given, weight, stride, padding, list(size)), expected)


@pytest.mark.parametrize("count", [(2, 2), (3, 3), (2, 1)])
@pytest.mark.parametrize("size", [(12, 12), (11, 10)])
def test_shuffling_equals_interleaving(count: tuple[int, int], size: tuple[int, int]) -> None:
    parts: list[list[torch.Tensor | None]] = [
        [torch.randn(2, 4, len(range(r, size[0], count[0])), len(range(c, size[1], count[1]))) for c in range(count[1])]
        for r in range(count[0])
    ]
    parts[-1][-1] = None
    assert torch.equal(shuffle(parts, size), interleave(parts, size))


def test_the_gradient_of_a_shortcut_is_added_in_its_phase() -> None:
    block = Residual(8, 8, 2).eval()
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(128, 3)).eval()
    program = differentiate(canonicalize(capture(model, torch.zeros(1, 8, 8, 8))), METHODS["gradient"])
    lowered = apply(program, [BY_NAME["add phases"], BY_NAME["stride phases"]])
    assert count(lowered)["add.Tensor"] == count(program)["add.Tensor"]
    assert count(lowered)["stack.default"] == 3


def test_a_pass_that_never_applies_changes_nothing() -> None:
    program, images = explicit("vgg")
    idle = Pass("idle", (aten.relu.default,), lambda match: NotImplemented)
    lowered = apply(program, [idle])
    assert count(lowered) == count(program)
    assert torch.equal(
        to_module(lowered)(images, torch.zeros(3, dtype=torch.int64))[1],
        to_module(program)(images, torch.zeros(3, dtype=torch.int64))[1],
    )


def test_what_a_later_rewrite_replaces_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's cotangent is read by a mask whose rewrite starts from the pool; one of two ways is enough."""
    traced: list[bool] = []

    def phases(*args, **options):
        traced.append(options["blocked"])
        return tap_phases(*args, **options)

    for module in (pooling, stem):
        monkeypatch.setattr(module, "tap_phases", phases)
    model = resolve("resnet18").model
    program = differentiate(canonicalize(capture(model, torch.zeros(1, 3, 32, 32))), METHODS["guided"])
    lowered = apply(program, PASSES["onnxruntime"])
    assert traced == [True]
    assert count(lowered)["scatter_add.default"] == 0


@pytest.mark.parametrize("target", ["cuda", "torchscript"])
def test_negative_parts_stay_without_the_guided_rule(target: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3)).eval()
    images = torch.randint(-3, 9, (3, 2, 8, 8)).float()
    model(images)
    model.requires_grad_(False)[3].weight.copy_(torch.randint(-4, 5, model[3].weight.shape))
    program = differentiate(canonicalize(capture(model, images)), METHODS["gradient"])
    found, expected = (to_module(one)(images, torch.tensor([-1, 2, 0]))[1] for one in (lower(program, target), program))
    assert (expected < 0).any()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3), (3, 3)])
def test_a_kernel_that_is_long_one_way_is_not_pointwise(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, kernel, bias=False), nn.ReLU())
    model = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, 2, 1, groups=32), nn.Flatten(), nn.LazyLinear(3)).eval()
    images = torch.randn(3, 3, 9, 9)
    model(images)
    program = differentiate(canonicalize(capture(model, images)), METHODS["guided"])
    assert len(apply(program, [BY_NAME["pointwise phases"]]).graph.nodes) == len(program.graph.nodes)
