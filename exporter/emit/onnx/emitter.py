"""The emitter: collects ONNX nodes while it walks a program, and knows names, constants and shapes.

Shapes come from the fake values that the trace left on every node. A size that varies is a formula of the inputs'
sizes: one of them is ``-1`` in a Reshape, and elsewhere the formula is computed in the graph from the inputs' shapes.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from exporter import __version__
from exporter.elementwise import is_elementwise
from exporter.emit.onnx.formulas import Formulas
from exporter.errors import UnsupportedOp
from exporter.program import Program, of_weights, place_of, scope_of
from exporter.signature import ATTRIBUTION, TARGET, size_name

aten = torch.ops.aten

_IR_VERSION = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The IR version that ONNX released together with each opset, so that the oldest runtimes that know it load it."""

DTYPES = {
    torch.float16: TensorProto.FLOAT16,
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}
"""The dtypes that an ONNX artifact can have."""

INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)


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


_COMPARISONS = {aten.gt, aten.ge, aten.lt, aten.le, aten.eq, aten.ne}

Translation = Callable[..., Any]
TRANSLATIONS: dict[Any, Translation] = {}
"""ATen operator -> ``translation(emitter, *args, **kwargs)``, which returns the name of the ONNX value."""


def translates(*ops: Any) -> Callable[[Translation], Translation]:
    """Register the translation of one or more operators."""

    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(ops, function))
        return function

    return register


class Emitter:
    """Collects ONNX nodes while the program is walked."""

    def __init__(self, program: Program, opset: int, symmetric_pads: bool) -> None:
        """Start on a program."""
        self.opset = opset
        self.symmetric_pads = symmetric_pads
        self._program = program
        self._names = program.names()
        self._values: dict[fx.Node, Any] = {}
        self._evaluated: dict[fx.Node, Any] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._scopes: list[str] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[TensorProto] = []
        self._fakes: dict[str, Tensor] = {}
        self.node: fx.Node
        for node, name in self._names.items():
            self._values[node] = Value(name, node.meta["val"])
        self._dimensions: dict[str, str] = {}  # what a size is as a formula -> its name
        self._formulas = Formulas(self, _fractions(program))
        self._needed = _needed(program)
        varying = [dimension.name for dimension in program.dimensions]
        for node in self._inputs():
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int):
                    self._dimensions[str(size)] = size_name(node.meta["val"].ndim, axis, varying)
                    self._formulas.symbols.setdefault(size.node.expr, (self._names[node], axis))

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

    def value_of(self, node: fx.Node) -> Value:
        """Return the value of an earlier node: what an argument was made from."""
        value: Value = self._values[node]
        return value

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a node's arguments as a translation receives them."""
        found: tuple[tuple[Any, ...], dict[str, Any]] = fx.map_arg(
            (node.args, node.kwargs), lambda a: self._values.get(a, a.meta["val"])
        )
        return found

    def is_stored(self, x: Value) -> bool:
        """Tell whether a value is one of the program's tensors, which the file stores."""
        return x.name in self._program.tensors

    def constant(self, values: Any, dtype: torch.dtype = torch.int64) -> str:
        """Return the name of a small constant; equal ones are stored once."""
        array = np.asarray(values, dtype=numpy_dtype(dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            while name in self._program.tensors:
                name += "_"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def as_value(self, x: Value | float | bool | torch.SymInt | torch.SymFloat, dtype: torch.dtype) -> Value | str:
        """Return an operand in the given dtype, a number as a constant, a dynamic size as a scalar."""
        if isinstance(x, torch.SymInt):
            return self.cast(self.reshape(self._formulas.whole(x.node.expr), []), dtype)
        if isinstance(x, torch.SymFloat):
            return self.cast(self.reshape(self._formulas.number(x.node.expr), []), dtype)
        if not isinstance(x, Value):
            return self.constant(x, dtype)
        return x if x.dtype == dtype else self.cast(x, dtype)

    def cast(self, x: Value | str, dtype: torch.dtype) -> str:
        """Append a Cast."""
        name: str = self.op("Cast", x, to=onnx_dtype(dtype))
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
        """Return the name of an int64 vector with these sizes; those that vary are computed in the graph."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(list(sizes))
        parts = [
            self.constant([size]) if isinstance(size, int) else self._formulas.whole(size.node.expr) for size in sizes
        ]
        name: str = self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return name

    def reduce(self, kind: str, x: Value | str, axes: Sequence[int], keepdim: bool) -> str:
        """Append a reduction; until operator set 18 its axes were an attribute."""
        name: str
        if self.opset < 18 and kind != "ReduceSum":
            name = self.op(kind, x, axes=list(axes), keepdims=int(keepdim))
        else:
            name = self.op(kind, x, self.constant(list(axes)), keepdims=int(keepdim))
        return name

    def before_padding(self, x: Value, axes: int) -> tuple[Value, list[int]]:
        """Return what a Conv's input was before zeros were put around it, and the widths as ``pads`` has them."""
        node = self.node.args[0]
        unpadded = (x, [0] * (2 * axes))
        if not isinstance(node, fx.Node) or node.target != aten.constant_pad_nd.default:
            return unpadded
        arguments: Any = node.args
        source, widths, *value = arguments
        if not all(isinstance(width, int) for width in widths):
            return unpadded
        if any(value) or min(widths) < 0 or len(widths) > 2 * axes:
            return unpadded
        widths = [*widths, *[0] * (2 * axes - len(widths))]
        return self._values[source], [*widths[::2][::-1], *widths[1::2][::-1]]

    # -- the walk -----------------------------------------------------------------------------------------

    def translate(self, node: fx.Node) -> None:
        """Append the ONNX nodes of one operator."""
        self.node = node
        if node not in self._needed:
            return
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            self._values[node] = Value(self._values[source][index], node.meta["val"])
            return
        translation = TRANSLATIONS.get(node.target)
        if translation is None and of_weights(node):
            value = self._evaluate(node)
            names = [self._store(one) for one in (value if isinstance(value, (tuple, list)) else [value])]
            self._values[node] = names if isinstance(value, (tuple, list)) else Value(names[0], node.meta["val"])
            return
        if translation is None:
            raise UnsupportedOp(
                f"{node.target} has no ONNX translation ({place_of(node)}). Translations are functions in "
                'exporter/emit/onnx; see CONTRIBUTING.md, "Adding an operator".'
            )
        args, kwargs = self.arguments(node)
        try:
            result = translation(self, *self._promoted(args), **kwargs)
        except UnsupportedOp as error:
            raise UnsupportedOp(f"{node.target}: {error} ({place_of(node)})") from error
        self._values[node] = result if isinstance(result, list) else Value(result, node.meta["val"])
        if not isinstance(result, list):
            self._fakes[result] = node.meta["val"]

    def _evaluate(self, node: fx.Node) -> Any:
        """Compute what depends on the program's tensors alone."""
        if node.op == "placeholder":
            return self._program.tensors[self._names[node]]
        if node not in self._evaluated:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._evaluate)
            op: Any = node.target
            with torch.no_grad():
                self._evaluated[node] = op(*args, **kwargs)
        return self._evaluated[node]

    def _store(self, value: Tensor) -> str:
        return self.constant(value.numpy(), value.dtype)

    def _promoted(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Convert whole numbers that an elementwise operator computes with as with others, as PyTorch does unasked.

        ``sqrt(i)``, ``2.5 - i`` and ``i > 2.5`` compute in floating point.
        """
        op: Any = self.node.target
        if not isinstance(op, torch._ops.OpOverload) or not is_elementwise(op):
            return args
        if op.overloadpacket in _COMPARISONS:
            a, b = (arg.fake if isinstance(arg, Value) else arg for arg in args)
            dtype = torch.result_type(a, b)
            kept = {dtype}
        else:
            dtype = self.fake.dtype
            several = sum(isinstance(arg, Value) for arg in args) > 1
            kept = {dtype, torch.bool} if several else {dtype}  # beside others booleans choose
            if not dtype.is_floating_point:
                return args
        return tuple(
            self.converted(arg, dtype)
            if isinstance(arg, Value) and arg.dtype not in kept and not arg.dtype.is_floating_point
            else arg
            for arg in args
        )

    def converted(self, x: Value, dtype: torch.dtype) -> Value:
        """Return a value in a dtype: itself, or cast to it."""
        if x.dtype == dtype:
            return x
        fake_mode: Any = x.fake.fake_mode  # type: ignore[attr-defined]
        with fake_mode:
            return Value(self.cast(x, dtype), torch.empty_like(x.fake, dtype=dtype))

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the finished model."""
        self._drop_dead()
        names = self._readable_names(outputs)
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
        inputs = [self._info(self._names[node], node.meta["val"]) for node in self._inputs()]
        _document(inputs, finals)
        for node in self._nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        used = {name for node in self._nodes for name in node.input}
        tensors = [_initializer(name, tensor) for name, tensor in self._program.tensors.items() if name in used]
        graph = helper.make_graph(
            self._nodes,
            "saliport",
            inputs,
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
            producer_version=__version__,
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
        return helper.make_tensor_value_info(name, onnx_dtype(fake.dtype), sizes)

    def _dimension(self, size: torch.SymInt) -> str | None:
        return self._dimensions.get(str(size))

    def _readable_names(self, outputs: Sequence[str]) -> dict[str, str]:
        """Name nodes after their scope, ``layer1.0.conv1`` or ``layer1.0.relu.vjp/Mul``; values likewise."""
        renamed: dict[str, str] = {}
        alone = Counter(self._scopes)
        constants = [constant.name for constant in self._initializers]
        taken = {*self._program.inputs, *self._program.tensors, *outputs, *constants}
        for node, name in zip(self._nodes, self._scopes, strict=True):
            base = name if alone[name] == 1 else f"{name}/{node.op_type}"
            candidates = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(1)))
            unique = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(unique)
            node.name = unique
            for index, output in enumerate(node.output):
                renamed[output] = f"{unique}:{index}" if index else unique
        return renamed


def _needed(program: Program) -> set[fx.Node]:
    """Return the nodes whose values the outputs need; sizes are not among them, those come from the fake values."""
    needed: set[fx.Node] = set()
    waiting = list(program.outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed and not isinstance(node.meta["val"], (int, float, torch.SymInt, torch.SymFloat)):
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def numpy_dtype(dtype: torch.dtype) -> Any:
    """Return the NumPy dtype that ONNX stores a torch dtype as."""
    return helper.tensor_dtype_to_np_dtype(onnx_dtype(dtype))


def onnx_dtype(dtype: torch.dtype) -> int:
    """Return what ONNX calls a torch dtype.

    Raises:
        UnsupportedOp: An ONNX artifact cannot have it.
    """
    if dtype not in DTYPES:
        have = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
        raise UnsupportedOp(f"an ONNX artifact cannot have {str(dtype).removeprefix('torch.')}; there are {have}")
    return DTYPES[dtype]


def _document(inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> None:
    """Say in the file itself what types and shapes do not: viewers show it, and the manifest may be elsewhere."""
    logits, *attributions = outputs
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    for value in inputs:
        if value.name == TARGET:
            value.doc_string = f"For each sample the class to explain, 0 to {classes - 1}, or -1: the predicted one."
    logits.doc_string = "What the network returns."
    for value in attributions:
        given = value.name.removeprefix(ATTRIBUTION).removeprefix("_") or inputs[0].name
        value.doc_string = f"What the rectifiers' rule makes of the derivative of logits[target] by {given}."


def _initializer(name: str, tensor: Tensor) -> TensorProto:
    array = tensor.detach().cpu().contiguous().numpy()
    return helper.make_tensor(name, onnx_dtype(tensor.dtype), array.shape, array.tobytes(), raw=True)


def _fractions(program: Program) -> set[float]:
    """Return the magnitudes of the constants that a program's sizes are computed with."""
    sized = (n for n in program.graph.nodes if isinstance(n.meta.get("val"), (torch.SymInt, torch.SymFloat)))
    return {abs(float(a)) for node in sized for a in node.args if isinstance(a, (int, float))}
