"""Emit ONNX: one translation per ATen operator of the explicit graph, weights stored once.

Shapes come from the fake values that the trace left on every node, so reshapes need no arithmetic in the
graph: the batch, the one dynamic size, is ``-1`` in a Reshape and is read off the image elsewhere.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from exporter.errors import UnsupportedOp
from exporter.program import Program, place_of, scope_of

aten = torch.ops.aten

MIN_OPSET, MAX_OPSET = 17, 23
_IR_VERSION = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The IR version that ONNX released together with each opset, so that the oldest runtimes that know it load it."""

_DTYPES = {
    torch.float16: TensorProto.FLOAT16,
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
_INT64_MAX, _INT64_MIN = 2**63 - 1, -(2**63)


def emit(program: Program, path: Path, outputs: Sequence[str], opset: int, batch: str = "batch") -> None:
    """Write a program as an ONNX file.

    Args:
        program: What to write. Every operator needs a translation.
        path: The file.
        outputs: Names of the program's outputs.
        opset: Version of the default operator set, 17 to 23.
        batch: Name of the dynamic dimension.

    Raises:
        UnsupportedOp: An operator has no translation.
    """
    onnx.save_model(translate(program, outputs, opset, batch), str(path))


def translate(program: Program, outputs: Sequence[str], opset: int, batch: str = "batch") -> onnx.ModelProto:
    """Return a program as an ONNX model; see :func:`emit`."""
    emitter = _Emitter(program, opset, batch)
    for node in program.graph.nodes:
        if node.op == "call_function":
            emitter.translate(node)
    return emitter.model(outputs)


@dataclass(frozen=True)
class Value:
    """A tensor in the ONNX graph: its name, and the fake tensor that tells its shape and dtype."""

    name: str
    fake: Tensor

    @property
    def shape(self) -> torch.Size:
        """Sizes; the batch is symbolic."""
        return self.fake.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.fake.ndim

    @property
    def dtype(self) -> torch.dtype:
        """Torch dtype."""
        return self.fake.dtype


Translation = Callable[..., Any]
TRANSLATIONS: dict[Any, Translation] = {}
"""ATen operator -> ``translation(emitter, *args, **kwargs)``, which returns the name of the ONNX value."""


def translates(*ops: Any) -> Callable[[Translation], Translation]:
    """Register the translation of one or more operators."""

    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(ops, function))
        return function

    return register


class _Emitter:
    """Collects ONNX nodes while the program is walked."""

    def __init__(self, program: Program, opset: int, batch: str) -> None:
        self.opset = opset
        self._batch = batch
        self._program = program
        self._names = program.names()
        self._values: dict[fx.Node, Any] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._scopes: list[str] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[TensorProto] = []
        self._fakes: dict[str, Tensor] = {}
        self.node: fx.Node
        for node, name in self._names.items():
            self._values[node] = Value(name, node.meta["val"])
        self._batch_size = str(program.placeholders[0].meta["val"].shape[0])

    # -- for translations ---------------------------------------------------------------------------------

    @property
    def fake(self) -> Tensor:
        """The fake value of the node that is being translated."""
        value: Tensor = self.node.meta["val"]
        return value

    def op(self, kind: str, *inputs: Value | str | None, outputs: int = 1, **attributes: Any) -> Any:
        """Append an ONNX node; returns its output's name, or a list of names for several outputs."""
        given = {key: value for key, value in attributes.items() if value is not None}
        names = [f"#{len(self._nodes)}.{index}" for index in range(outputs)]
        arguments = ["" if i is None else i.name if isinstance(i, Value) else i for i in inputs]
        while arguments and not arguments[-1]:
            arguments.pop()
        self._nodes.append(helper.make_node(kind, arguments, names, **given))
        self._scopes.append(scope_of(self.node))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: torch.dtype = torch.int64) -> str:
        """Return the name of a small constant; equal ones are stored once."""
        array = np.asarray(values, dtype=_numpy_dtype(dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def as_value(self, x: Value | float | bool, dtype: torch.dtype) -> Value | str:
        """Return an operand in the given dtype, a number as a constant."""
        if not isinstance(x, Value):
            return self.constant(x, dtype)
        return x if x.dtype == dtype else self.cast(x, dtype)

    def cast(self, x: Value | str, dtype: torch.dtype) -> str:
        """Append a Cast."""
        name: str = self.op("Cast", x, to=_DTYPES[dtype])
        return name

    def reshape(self, x: Value | str, shape: Sequence[Any]) -> str:
        """Append a Reshape; one dynamic size is left for the runtime to infer."""
        dynamic = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        if len(dynamic) <= 1:
            sizes = self.constant([size if isinstance(size, int) else -1 for size in shape])
        else:
            sizes = self.shape(shape)
        name: str = self.op("Reshape", x, sizes)
        return name

    def shape(self, sizes: Sequence[Any]) -> str:
        """Return the name of an int64 vector with these sizes; the batch is read off the first input."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(list(sizes))
        parts = [self.constant([size]) if isinstance(size, int) else self._size(size) for size in sizes]
        name: str = self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return name

    def _size(self, size: Any) -> str:
        if str(size) != self._batch_size:
            raise UnsupportedOp(f"{self.node.target} needs the dynamic size {size} ({place_of(self.node)})")
        name: str = self.op("Shape", self._program.inputs[0], start=0, end=1)
        return name

    def before_padding(self, x: Value, axes: int) -> tuple[Value, list[int]]:
        """Return what a Conv's input was before zeros were put around it, and the widths as ``pads`` has them."""
        node = self.node.args[0]
        unpadded = (x, [0] * (2 * axes))
        if not isinstance(node, fx.Node) or node.target != aten.constant_pad_nd.default:
            return unpadded
        arguments: Any = node.args
        source, widths, *value = arguments
        if any(value) or min(widths) < 0 or len(widths) > 2 * axes:
            return unpadded
        widths = [*widths, *[0] * (2 * axes - len(widths))]
        return self._values[source], [*widths[::2][::-1], *widths[1::2][::-1]]

    # -- the walk -----------------------------------------------------------------------------------------

    def translate(self, node: fx.Node) -> None:
        """Append the ONNX nodes of one operator."""
        self.node = node
        if isinstance(node.meta["val"], (int, torch.SymInt)):
            return  # a size: translations read sizes from the fake values
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            self._values[node] = Value(self._values[source][index], node.meta["val"])
            return
        translation = TRANSLATIONS.get(node.target)
        if translation is None:
            raise UnsupportedOp(
                f"{node.target} has no ONNX translation ({place_of(node)}). Translations are functions in "
                'exporter/emit/onnx.py; see CONTRIBUTING.md, "Adding an operator".'
            )
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: self._values.get(a, a.meta["val"]))
        result = translation(self, *args, **kwargs)
        self._values[node] = result if isinstance(result, list) else Value(result, node.meta["val"])
        if not isinstance(result, list):
            self._fakes[result] = node.meta["val"]

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the finished model."""
        self._drop_dead()
        names = self._readable_names()
        finals = []
        for node, name in zip(self._program.outputs, outputs, strict=True):
            value = self._values[node]
            if value.name in names and names[value.name] not in outputs:
                names[value.name] = name
            else:  # an input, a weight, or one value under two names
                self.node = node
                copied = self.op("Identity", names.get(value.name, value.name))
                names[copied] = name
                self._nodes[-1].name = f"{name}/Identity"
            finals.append(self._info(name, value.fake))
        for node in self._nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        used = {name for node in self._nodes for name in node.input}
        tensors = [_initializer(name, tensor) for name, tensor in self._program.tensors.items() if name in used]
        graph = helper.make_graph(
            self._nodes,
            "saliport",
            [self._info(self._names[node], node.meta["val"]) for node in self._inputs()],
            finals,
            [*tensors, *(constant for constant in self._initializers if constant.name in used)],
            value_info=[
                self._info(names[name], fake)
                for name, fake in self._fakes.items()
                if name in names and names[name] not in outputs
            ],
        )
        return helper.make_model(
            graph,
            producer_name="saliport",
            ir_version=_IR_VERSION[self.opset],
            opset_imports=[helper.make_opsetid("", self.opset)],
        )

    def _drop_dead(self) -> None:
        """Drop nodes that no output needs: a Pad that its Conv has taken over, a shape that nobody asked for."""
        live = {self._values[node].name for node in self._program.outputs}
        kept = []
        for node, name in zip(reversed(self._nodes), reversed(self._scopes), strict=True):
            if live & set(node.output):
                kept.append((node, name))
                live |= set(node.input)
        self._nodes = [node for node, _ in reversed(kept)]
        self._scopes = [name for _, name in reversed(kept)]

    def _inputs(self) -> list[fx.Node]:
        return self._program.placeholders[: len(self._program.inputs)]

    def _info(self, name: str, fake: Tensor) -> onnx.ValueInfoProto:
        sizes = [size if isinstance(size, int) else self._dimension(size) for size in fake.shape]
        return helper.make_tensor_value_info(name, _DTYPES[fake.dtype], sizes)

    def _dimension(self, size: torch.SymInt) -> str | None:
        return self._batch if str(size) == self._batch_size else None

    def _readable_names(self) -> dict[str, str]:
        """Name nodes after their scope, ``layer1.0.conv1`` or ``layer1.0.relu.vjp/Mul``; values likewise."""
        renamed: dict[str, str] = {}
        alone = Counter(self._scopes)
        taken = {*self._program.inputs, *self._program.tensors, "logits", "attribution"}
        for node, name in zip(self._nodes, self._scopes, strict=True):
            base = name if alone[name] == 1 else f"{name}/{node.op_type}"
            candidates = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(1)))
            unique = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(unique)
            node.name = unique
            for index, output in enumerate(node.output):
                renamed[output] = f"{unique}:{index}" if index else unique
        return renamed


def _numpy_dtype(dtype: torch.dtype) -> Any:
    return helper.tensor_dtype_to_np_dtype(_DTYPES[dtype])


def _initializer(name: str, tensor: Tensor) -> TensorProto:
    array = tensor.detach().cpu().contiguous().numpy()
    return helper.make_tensor(name, _DTYPES[tensor.dtype], array.shape, array.tobytes(), raw=True)


def _spatial(value: Sequence[int], axes: int) -> list[int]:
    return list(value) * axes if len(value) == 1 else list(value)


# -- linear ---------------------------------------------------------------------------------------------------


@translates(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def _conv(
    e: _Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> str:
    axes = x.ndim - 2
    source, pads = e.before_padding(x, axes)
    return e.op(
        "Conv",
        source,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=_spatial(stride, axes),
        pads=[own + more for own, more in zip(_spatial(padding, axes) * 2, pads, strict=True)],
        dilations=_spatial(dilation, axes),
        group=groups,
    )


@translates(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def _conv_transpose(
    e: _Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> str:
    axes = x.ndim - 2
    return e.op(
        "ConvTranspose",
        x,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=_spatial(stride, axes),
        pads=_spatial(padding, axes) * 2,
        output_padding=_spatial(output_padding, axes),
        dilations=_spatial(dilation, axes),
        group=groups,
    )


@translates(aten.linear.default)
def _linear(e: _Emitter, x: Value, weight: Value, bias: Value | None = None) -> str:
    if x.ndim == 2:
        return e.op("Gemm", x, weight, bias, transB=1)
    product = e.op("MatMul", x, e.op("Transpose", weight, perm=[1, 0]))
    return product if bias is None else e.op("Add", product, bias)


@translates(aten.addmm.default)
def _addmm(e: _Emitter, bias: Value, x: Value, weight: Value) -> str:
    return e.op("Gemm", x, weight, bias)


@translates(aten.matmul.default, aten.mm.default, aten.bmm.default)
def _matmul(e: _Emitter, a: Value, b: Value) -> str:
    return e.op("MatMul", a, b)


# -- normalisation and pooling --------------------------------------------------------------------------------


@translates(aten.batch_norm.default)
def _batch_norm(
    e: _Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> str:
    channels = mean.shape[0]
    scale = weight or e.constant([1.0] * channels, x.dtype)
    shift = bias or e.constant([0.0] * channels, x.dtype)
    return e.op("BatchNormalization", x, scale, shift, mean, var, epsilon=eps)


def _end_padding(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> list[int]:
    """Return what ceil mode adds after the image: ONNX's own ceil mode rounds edge windows differently."""
    return [
        max(0, (n - 1) * s + d * (k - 1) + 1 - (length + 2 * p))
        for length, n, k, s, p, d in zip(size, out, kernel, stride, padding, dilation, strict=True)
    ]


@translates(aten.max_pool2d_with_indices.default)
def _max_pool2d(
    e: _Emitter,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> list[str]:
    kernel, padding, dilation = (_spatial(v, 2) for v in (kernel, padding, dilation))
    stride = _spatial(stride, 2) if len(stride) else kernel
    fake, height, width = e.node.meta["val"][0], *x.shape[-2:]
    extra = _end_padding((height, width), fake.shape[-2:], kernel, stride, padding, dilation)
    wants_indices = any(user.args[1] == 1 for user in e.node.users)
    found = e.op(
        "MaxPool",
        x,
        outputs=2 if wants_indices else 1,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *(p + more for p, more in zip(padding, extra, strict=True))],
        dilations=dilation,
    )
    if not wants_indices:
        return [found]
    # ONNX counts from the start of the tensor, PyTorch from the start of the channel.
    return [found[0], e.op("Mod", found[1], e.constant(height * width))]


@translates(aten.avg_pool2d.default)
def _avg_pool2d(
    e: _Emitter,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> str:
    kernel, padding = _spatial(kernel, 2), _spatial(padding, 2)
    stride = _spatial(stride, 2) if len(stride) else kernel
    extra = _end_padding(x.shape[-2:], e.fake.shape[-2:], kernel, stride, padding)
    source: Value | str = x
    if any(padding) and (count_include_pad or divisor is not None):  # padding counts, what ceil mode adds does not
        source = e.op("Pad", x, e.constant([0, 0, *padding, 0, 0, *padding]))
        padding = [0, 0]
    pooled: str = e.op(
        "AveragePool",
        source,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *(p + more for p, more in zip(padding, extra, strict=True))],
        count_include_pad=int(divisor is not None),
    )
    if divisor is None:
        return pooled
    return e.op("Mul", pooled, e.constant(math.prod(kernel) / divisor, x.dtype))


# -- pointwise ------------------------------------------------------------------------------------------------


def _binary(kind: str) -> Translation:
    def translation(e: _Emitter, a: Value, b: Value | float, alpha: float = 1) -> str:
        dtype = e.fake.dtype
        if dtype == torch.bool and kind == "Mul":
            return e.op("And", a, e.as_value(b, dtype))
        right = e.as_value(b, dtype)
        if alpha != 1:
            right = e.op("Mul", right, e.constant(alpha, dtype))
        return e.op(kind, e.as_value(a, dtype), right)

    return translation


def _comparison(kind: str) -> Translation:
    def translation(e: _Emitter, a: Value, b: Value | float) -> str:
        return e.op(kind, a, e.as_value(b, a.dtype))

    return translation


def _unary(kind: str) -> Translation:
    return lambda e, x: e.op(kind, x)


for _kind in ("Add", "Sub", "Mul", "Div"):
    _overloads = getattr(aten, _kind.lower())
    translates(_overloads.Tensor, _overloads.Scalar)(_binary(_kind))
for _name, _kind in (
    ("gt", "Greater"),
    ("ge", "GreaterOrEqual"),
    ("lt", "Less"),
    ("le", "LessOrEqual"),
    ("eq", "Equal"),
):
    _overloads = getattr(aten, _name)
    translates(_overloads.Tensor, _overloads.Scalar)(_comparison(_kind))
for _name in ("abs", "ceil", "exp", "floor", "log", "neg", "relu", "round", "sigmoid", "sign", "sqrt", "tanh"):
    translates(getattr(aten, _name).default)(_unary(_name.capitalize()))
translates(aten.__and__.Tensor, aten.bitwise_and.Tensor, aten.logical_and.default)(lambda e, a, b: e.op("And", a, b))


@translates(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(e: _Emitter, a: Value, b: Value | float) -> str:
    return e.op("Not", e.op("Equal", a, e.as_value(b, a.dtype)))


@translates(aten.detach.default)
def _identity(e: _Emitter, x: Value) -> str:
    return e.op("Identity", x)


@translates(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(e: _Emitter, a: Value, b: Value | float, alpha: float = 1) -> str:
    if alpha != 1:
        return e.op("Sub", e.as_value(b, a.dtype), e.op("Mul", a, e.constant(alpha, a.dtype)))
    return e.op("Sub", e.as_value(b, a.dtype), a)


@translates(aten.rsqrt.default)
def _rsqrt(e: _Emitter, x: Value) -> str:
    return e.op("Reciprocal", e.op("Sqrt", x))


@translates(aten.silu.default)
def _silu(e: _Emitter, x: Value) -> str:
    return e.op("Mul", x, e.op("Sigmoid", x))


@translates(aten.leaky_relu.default)
def _leaky_relu(e: _Emitter, x: Value, slope: float = 0.01) -> str:
    return e.op("LeakyRelu", x, alpha=float(slope))


@translates(aten.clamp.default, aten.clamp_min.default)
def _clamp(e: _Emitter, x: Value, min: float | None = None, max: float | None = None) -> str:
    bounds = [None if bound is None else e.constant(bound, x.dtype) for bound in (min, max)]
    return e.op("Clip", x, *bounds)


@translates(aten.hardtanh.default)
def _hardtanh(e: _Emitter, x: Value, low: float = -1.0, high: float = 1.0) -> str:
    return _clamp(e, x, low, high)


@translates(aten.relu6.default)
def _relu6(e: _Emitter, x: Value) -> str:
    return _clamp(e, x, 0.0, 6.0)


@translates(aten.clamp_max.default)
def _clamp_max(e: _Emitter, x: Value, max: float) -> str:
    return _clamp(e, x, None, max)


@translates(aten.threshold.default)
def _threshold(e: _Emitter, x: Value, threshold: float, value: float) -> str:
    above = e.op("Greater", x, e.constant(threshold, x.dtype))
    return e.op("Where", above, x, e.constant(value, x.dtype))


@translates(aten.where.self)
def _where(e: _Emitter, condition: Value, a: Value, b: Value) -> str:
    return e.op("Where", condition, a, b)


@translates(aten.masked_fill.Scalar)
def _masked_fill(e: _Emitter, x: Value, mask: Value, value: float) -> str:
    return e.op("Where", mask, e.constant(value, x.dtype), x)


@translates(aten._to_copy.default, aten.to.dtype)
def _to(e: _Emitter, x: Value, *args: Any, **kwargs: Any) -> str:
    return e.cast(x, e.fake.dtype)


@translates(aten.softmax.int, aten._softmax.default)
def _softmax(e: _Emitter, x: Value, dim: int, *args: object) -> str:
    return e.op("Softmax", x, axis=dim)


@translates(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(e: _Emitter, x: Value, dim: int, *args: object) -> str:
    return e.op("LogSoftmax", x, axis=dim)


# -- reductions -----------------------------------------------------------------------------------------------


@translates(aten.sum.dim_IntList)
def _sum(e: _Emitter, x: Value, dim: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> str:
    axes = e.constant(list(dim or range(x.ndim)))
    return e.op("ReduceSum", e.as_value(x, e.fake.dtype), axes, keepdims=int(keepdim))


@translates(aten.mean.dim)
def _mean(e: _Emitter, x: Value, dim: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> str:
    axes = sorted(d % x.ndim for d in dim or range(x.ndim))
    if keepdim and axes == list(range(2, x.ndim)):
        return e.op("GlobalAveragePool", x)
    if e.opset < 18:
        return e.op("ReduceMean", x, axes=axes, keepdims=int(keepdim))
    return e.op("ReduceMean", x, e.constant(axes), keepdims=int(keepdim))


@translates(aten.argmax.default)
def _argmax(e: _Emitter, x: Value, dim: int, keepdim: bool = False) -> str:
    return e.op("ArgMax", x, axis=dim, keepdims=int(keepdim))


# -- shape ----------------------------------------------------------------------------------------------------


@translates(
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.view.default,
)
def _reshape(e: _Emitter, x: Value, *args: object) -> str:
    return e.reshape(x, e.fake.shape)


@translates(aten.permute.default)
def _permute(e: _Emitter, x: Value, dims: Sequence[int]) -> str:
    return e.op("Transpose", x, perm=[d % x.ndim for d in dims])


@translates(aten.transpose.int)
def _transpose(e: _Emitter, x: Value, a: int, b: int) -> str:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return e.op("Transpose", x, perm=order)


@translates(aten.t.default)
def _t(e: _Emitter, x: Value) -> str:
    return e.op("Transpose", x, perm=[1, 0])


@translates(aten.expand.default)
def _expand(e: _Emitter, x: Value, size: Sequence[Any], **kwargs: Any) -> str:
    # Expand broadcasts both ways, so an axis that the input has already may be given as 1.
    have = [1] * (e.fake.ndim - x.ndim) + list(x.shape)
    sizes = [1 if str(old) == str(new) else new for old, new in zip(have, e.fake.shape, strict=True)]
    return e.op("Expand", x, e.shape(sizes))


@translates(aten.cat.default)
def _cat(e: _Emitter, tensors: Sequence[Value], dim: int = 0) -> str:
    return e.op("Concat", *tensors, axis=dim)


@translates(aten.stack.default)
def _stack(e: _Emitter, tensors: Sequence[Value], dim: int = 0) -> str:
    axis = e.constant([dim % e.fake.ndim])
    return e.op("Concat", *(e.op("Unsqueeze", tensor, axis) for tensor in tensors), axis=dim % e.fake.ndim)


@translates(aten.slice.Tensor)
def _slice(e: _Emitter, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> str:
    bounds = [0 if start is None else start, _INT64_MAX if end is None else end, dim, step]
    return e.op("Slice", x, *(e.constant([bound]) for bound in bounds))


@translates(aten.select.int)
def _select(e: _Emitter, x: Value, dim: int, index: int) -> str:
    return e.op("Gather", x, e.constant(index), axis=dim)


@translates(aten.flip.default)
def _flip(e: _Emitter, x: Value, dims: Sequence[int]) -> str:
    count = len(dims)
    return e.op(
        "Slice",
        x,
        e.constant([-1] * count),
        e.constant([_INT64_MIN] * count),
        e.constant(list(dims)),
        e.constant([-1] * count),
    )


@translates(aten.constant_pad_nd.default)
def _pad(e: _Emitter, x: Value, pad: Sequence[int], value: float = 0) -> str:
    axes = len(pad) // 2
    before = [0] * (x.ndim - axes) + list(pad[::2])[::-1]
    after = [0] * (x.ndim - axes) + list(pad[1::2])[::-1]
    source: Value | str = x
    cropped = [axis for axis in range(x.ndim) if before[axis] < 0 or after[axis] < 0]
    if cropped:
        starts = [max(0, -before[axis]) for axis in cropped]
        ends = [min(0, after[axis]) or _INT64_MAX for axis in cropped]
        source = e.op("Slice", x, e.constant(starts), e.constant(ends), e.constant(cropped))
    widths = [max(0, width) for width in (*before, *after)]
    if any(widths):
        source = e.op("Pad", source, e.constant(widths), None if value == 0 else e.constant(value, x.dtype))
    return source if isinstance(source, str) else e.op("Identity", source)


# -- gather, scatter and fill -----------------------------------------------------------------------------------


@translates(aten.index_select.default)
def _index_select(e: _Emitter, x: Value, dim: int, index: Value) -> str:
    return e.op("Gather", x, index, axis=dim)


@translates(aten.scatter.value)
def _scatter(e: _Emitter, x: Value, dim: int, index: Value, value: float) -> str:
    updates = e.op("Expand", e.constant(value, x.dtype), e.op("Shape", index))
    return e.op("ScatterElements", x, index, updates, axis=dim)


@translates(aten.scatter_add.default)
def _scatter_add(e: _Emitter, x: Value, dim: int, index: Value, updates: Value) -> str:
    return e.op("ScatterElements", x, index, updates, axis=dim, reduction="add")


def _filled(value: float) -> Translation:
    def translation(e: _Emitter, *args: Any, **kwargs: Any) -> str:
        filler = numpy_helper.from_array(np.asarray([value], dtype=_numpy_dtype(e.fake.dtype)))
        return e.op("ConstantOfShape", e.shape(e.fake.shape), value=filler)

    return translation


translates(aten.zeros_like.default, aten.new_zeros.default, aten.zeros.default)(_filled(0))
translates(aten.ones_like.default, aten.new_ones.default, aten.ones.default)(_filled(1))


@translates(aten.arange.default)
def _arange(e: _Emitter, end: int, **kwargs: Any) -> str:
    return e.constant(list(range(end)), e.fake.dtype)
