"""A rival: resnet18 and its guided-backprop pass as an ONNX graph, written by hand, node by node.

A compiler should not lose to it. The formulations are those that a study of single layers had found best, from before
Saliport's own passes: batch norms folded into their convolutions; a convolution with the kernel flipped at stride 1,
one with exact taps for each stride phase at stride 2, laid out by Concat; ConvTranspose for the stem; a max-pool's
cotangent by comparing taps, under its mask at the pooled size. It does without what a service needs: no target is
checked, and none stands for the predicted class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18


class Graph:
    """Collects nodes and constants; values are their names."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        """Add a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def slice(self, x: str, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]) -> str:
        """``x[:, :, a:b:s, c:d:t]``."""
        axes = self.constant([2, 3])
        return self.op("Slice", x, self.constant(starts), self.constant(ends), axes, self.constant(steps))

    def split(self, x: str, count: int) -> list[str]:
        """Cut the channels into equal parts."""
        names = [f"Split_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=1, num_outputs=count))
        return names

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a size."""
        return self.op("Reshape", x, self.constant(shape))


def write(model: Any, path: Path) -> None:
    """Write the graph of a network with resnet18's parts, for images of 224x224 and any batch."""
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    graph = Graph()
    weights: dict[str, str] = {}

    def conv(x: str, name: str, norm: str, stride: int, padding: int) -> str:
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-5)
        shift = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        weights[name] = graph.constant(tensors[f"{name}.weight"] * scale[:, None, None, None], np.float32)
        bias = graph.constant(shift, np.float32)
        return graph.op("Conv", x, weights[name], bias, strides=[stride] * 2, pads=[padding] * 4)

    stem = graph.op("Relu", conv("image", "conv1", "bn1", 2, 3))
    pooled = graph.op("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x, side, blocks = pooled, 56, []
    for layer, index in ((layer, index) for layer in (1, 2, 3, 4) for index in (0, 1)):
        name, stride = f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
        hidden = graph.op("Relu", conv(x, f"{name}.conv1", f"{name}.bn1", stride, 1))
        shortcut = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", 2, 0) if stride == 2 else x
        x = graph.op("Relu", graph.op("Add", conv(hidden, f"{name}.conv2", f"{name}.bn2", 1, 1), shortcut))
        side //= stride
        blocks.append((name, stride, hidden, x, side))
    head = graph.constant(tensors["fc.weight"], np.float32)
    features = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    logits = graph.op("Gemm", features, head, graph.constant(tensors["fc.bias"], np.float32), transB=1)

    row = graph.op("Gather", head, "target")
    g = graph.op("Mul", graph.reshape(row, 0, -1, 1, 1), graph.constant(1 / side**2, np.float32))
    for name, stride, hidden, output, size in reversed(blocks):
        g = _mask(graph, g, output)
        inner = _mask(graph, _flipped(graph, g, weights[f"{name}.conv2"]), hidden)
        if stride == 1:
            g = graph.op("Add", _flipped(graph, inner, weights[f"{name}.conv1"]), g)
        else:
            parts = _phases(graph, inner, weights[f"{name}.conv1"])
            pointwise = graph.op("Transpose", weights[f"{name}.downsample.0"], perm=[1, 0, 2, 3])
            parts[0][0] = graph.op("Add", parts[0][0], graph.op("Conv", g, pointwise))
            channels = tensors[f"{name}.conv1.weight"].shape[1]
            g = _interleave(graph, parts, channels, 2 * size)
    g = graph.op("Mul", g, _positive(graph, pooled))
    g = graph.op("Relu", _pool_cotangent(graph, g, stem, pooled))
    transposed = {"strides": [2, 2], "pads": [3] * 4, "output_padding": [1, 1]}
    attribution = graph.op("ConvTranspose", g, weights["conv1"], **transposed)

    for found, name in ((logits, "logits"), (attribution, "attribution")):
        graph.nodes.append(helper.make_node("Identity", [found], [name]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
    target = helper.make_tensor_value_info("target", TensorProto.INT64, ["batch"])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *tensors["fc.bias"].shape]),
        helper.make_tensor_value_info("attribution", TensorProto.FLOAT, ["batch", 3, 224, 224]),
    ]
    constants = [numpy_helper.from_array(values, name) for name, values in graph.constants.items()]
    made = helper.make_graph(graph.nodes, "by_hand", [image, target], outputs, constants)
    made = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)


def _positive(graph: Graph, x: str) -> str:
    return graph.op("Cast", graph.op("Greater", x, graph.constant(0, np.float32)), to=TensorProto.FLOAT)


def _mask(graph: Graph, g: str, y: str) -> str:
    """``relu(g) * (y > 0)``."""
    return graph.op("Mul", graph.op("Relu", g), _positive(graph, y))


def _flipped(graph: Graph, g: str, weight: str) -> str:
    """The input gradient of a 3x3 convolution of stride 1 and padding 1."""
    flipped = graph.slice(weight, [-1, -1], [-4, -4], [-1, -1])
    return graph.op("Conv", g, graph.op("Transpose", flipped, perm=[1, 0, 2, 3]), pads=[1] * 4)


def _phases(graph: Graph, g: str, weight: str) -> list[list[str]]:
    """The stride phases of the input gradient of a 3x3 convolution of stride 2 and padding 1.

    Of an axis, the even outputs have tap 1 of ``g[m]``, the odd ones tap 2 of ``g[m]`` and tap 0 of ``g[m + 1]``.
    """
    taps = ((1, 2, 1), (2, -4, -2))  # start, end, step of the kernel

    def phase(row: int, column: int) -> str:
        kernel = graph.slice(weight, *zip(taps[row], taps[column], strict=True))
        transposed = graph.op("Transpose", kernel, perm=[1, 0, 2, 3])
        return graph.op("Conv", g, transposed, pads=[0, 0, row, column])

    return [[phase(row, column) for column in (0, 1)] for row in (0, 1)]


def _interleave(graph: Graph, parts: list[list[str]], channels: int, side: int) -> str:
    """Lay stride phases ``[N, C, side / 2, side / 2]`` side by side: ``[N, C, side, side]``."""
    last, row = graph.constant([-1]), graph.constant([3])
    rows = []
    for columns in parts:
        pair = graph.op("Concat", *(graph.op("Unsqueeze", part, last) for part in columns), axis=-1)
        rows.append(graph.op("Unsqueeze", graph.reshape(pair, 0, channels, side // 2, side), row))
    return graph.reshape(graph.op("Concat", *rows, axis=3), 0, channels, side, side)


def _pool_cotangent(graph: Graph, g: str, x: str, y: str) -> str:
    """The cotangent of a max-pool of 3x3 with stride 2 and padding 1, on ``x [N, 64, 112, 112]`` without negatives.

    Tap 0 of a window is the odd phase a step before, tap 1 the even phase, tap 2 the odd one. The first tap that equals
    the maximum takes what is left; outside of the image the windows read zeros, where ``g`` is zero if they win.
    """
    split = graph.split(graph.op("SpaceToDepth", x, blocksize=2), 4)
    parts: list[list[str | None]] = [[None, None], [None, None]]
    for row, column in ((row, column) for row in range(3) for column in range(3)):
        phase, before = (row != 1, column != 1), (int(row == 0), int(column == 0))
        tap, back = split[2 * phase[0] + phase[1]], [-before[0], -before[1]]
        if any(before):
            tap = _shift(graph, tap, list(before))
        part = g  # the last tap takes what is left
        if (row, column) != (2, 2):
            part = graph.op("Mul", g, graph.op("Cast", graph.op("Equal", tap, y), to=TensorProto.FLOAT))
            g = graph.op("Sub", g, part)
        if any(before):
            part = _shift(graph, part, back)
        so_far = parts[phase[0]][phase[1]]
        parts[phase[0]][phase[1]] = part if so_far is None else graph.op("Add", so_far, part)
    return _interleave(graph, [[part or "" for part in row] for row in parts], 64, 112)


def _shift(graph: Graph, x: str, steps: list[int]) -> str:
    """Move an image down and to the right, or back: zeros come in, what goes out is lost."""
    return graph.op("Pad", x, graph.constant([0, 0, *steps, 0, 0, *(-step for step in steps)]))
