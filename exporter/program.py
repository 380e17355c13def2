"""The one graph representation that all stages share: functional ATen operators on named tensors."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    make_fx,
    track_tensor,
)
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._pytree import tree_leaves, tree_map_only

from exporter.dynamic import implied, named
from exporter.elementwise import Elementwise, bare, looks_like
from exporter.errors import UnsupportedOp
from exporter.layout import layout_unasked
from exporter.signature import AXES, BATCH, TARGET, Dimension, size_name
from exporter.uncollected import uncollected

SCOPE = "saliport.scope"
"""Metadata key of where in the model a node comes from: ``layer1.0.relu``, ``layer1.0.relu.vjp``."""

SOURCE = "saliport.source"
"""Metadata key of the line of the user's code that a node comes from: ``model.py:88``."""


@dataclass(frozen=True)
class Program:
    """A functional ATen graph and the tensors that it closes over.

    Attributes:
        graph: Placeholders for ``inputs``, then one for each key of ``tensors``, then operators,
            each with its fake value in ``node.meta["val"]``. Nothing is mutated.
        inputs: Names of the user's inputs, in order.
        tensors: Weights, buffers and constants by qualified name, as in the model's state dict.
        dimensions: The sizes of the inputs that may vary, the batch first, and which values they may have.
    """

    graph: fx.Graph
    inputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    dimensions: tuple[Dimension, ...] = (Dimension(BATCH),)

    @property
    def placeholders(self) -> list[fx.Node]:
        """The graph's placeholders: the inputs first, then one per tensor."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The graph's outputs."""
        return tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def names(self) -> dict[fx.Node, str]:
        """Map each placeholder to its input's or tensor's name."""
        return dict(zip(self.placeholders, (*self.inputs, *self.tensors), strict=True))


def scope_of(node: fx.Node) -> str:
    """Return where in the model a node comes from, for example ``layer1.0.relu.vjp``."""
    return (node.meta.get("custom") or {}).get(SCOPE, node.name)


def place_of(node: fx.Node) -> str:
    """Return a node's scope and source line, as an error message names them."""
    return ", ".join(filter(None, (scope_of(node), (node.meta.get("custom") or {}).get(SOURCE, ""))))


def scope(name: str) -> Any:
    """Return a context in which every traced operator gets this scope."""
    return traceback.annotate({SCOPE: name})


@uncollected()
def trace(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fakes: Mapping[str, Tensor],
    dimensions: tuple[Dimension, ...] = (Dimension(BATCH),),
) -> Program:
    """Record the operators that a function applies to fake tensors.

    Args:
        function: Takes the inputs, then the tensors, each in order; returns a tuple of tensors.
        inputs: Fake values of the program's inputs by name.
        tensors: The real tensors by name, kept as they are.
        fakes: A fake value for each key of ``tensors``, in the inputs' fake mode.
        dimensions: The inputs' sizes that may vary.
    """
    values = [*inputs.values(), *fakes.values()]
    with fake_mode_of(values), Elementwise(), bare(), layout_unasked(), traceback.preserve_node_meta(), torch.no_grad():
        traced = make_fx(function, pre_dispatch=True, tracing_mode="real")(*values)
    graph = traced.graph
    for node in graph.nodes:
        if node.op == "get_attr":  # a constant that the function made, for example torch.tensor(1.0)
            raise AssertionError(f"{node.target} is a constant: rules must build values from their arguments")
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
    return Program(graph, tuple(inputs), tensors, dimensions)


def retrace(program: Program, function: Callable[..., tuple[Tensor, ...]]) -> Program:
    """Trace a function of the program's own inputs and tensors, typically one that interprets its graph."""
    fakes = {name: node.meta["val"] for node, name in program.names().items()}
    inputs = {name: fakes.pop(name) for name in program.inputs}
    return trace(function, inputs, program.tensors, fakes, program.dimensions)


def fake_mode_of(values: list[Tensor]) -> Any:
    """Return the fake mode that the values live in."""
    return values[0].fake_mode  # type: ignore[attr-defined]


def same_shape(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have the same shape at every batch size.

    ``a.shape == b.shape`` would compare a size of 2 with the dynamic batch by the example's, and where that is 2 fix
    the batch for good. No trace records the question: one of them may be of an earlier program, and a trace knows how
    to compute some formulas of its sizes only.
    """
    with disable_proxy_modes_tracing():
        return a.ndim == b.ndim and all(statically_known_true(n == m) for n, m in zip(a.shape, b.shape, strict=True))


def of_weights(node: fx.Node) -> bool:
    """Tell whether a value is computed from weights alone: inputs have a dynamic batch, weights do not."""
    seen, waiting = set(), [node]
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        if source.op == "placeholder" and not all(isinstance(size, int) for size in source.meta["val"].shape):
            return False
        waiting += source.all_input_nodes
    return True


def _checked(
    graph: fx.Graph, given: list[tuple[fx.Node, fx.Node]], dimensions: Sequence[Dimension]
) -> dict[fx.Node, fx.Node]:
    """Refuse inputs of other sizes than the graph was made for, which ONNX declares and a module does not.

    Sizes are constants in the graph, the area of a pooled image for example: another image would run and be wrong.
    ``expand`` refuses a size that differs unless it is 1, and ``view`` back to the input's own sizes refuses what an
    expanded 1 has added. Neither copies anything. A size that may vary is that of the first input that has it.
    """
    aten = torch.ops.aten
    names = [dimension.name for dimension in dimensions]
    varying: dict[str, fx.Node] = {}
    checked = {}
    for node, placeholder in given:
        fake = node.meta["val"]
        own = [graph.call_function(aten.sym_size, (placeholder, axis)) for axis in range(fake.ndim)]
        sizes = [
            size if isinstance(size, int) else varying.setdefault(size_name(fake.ndim, axis, names), own[axis])
            for axis, size in enumerate(fake.shape)
        ]
        checked[node] = graph.call_function(aten.view, (graph.call_function(aten.expand, (placeholder, sizes)), own))
        checked[node].meta = dict(node.meta)
    return checked


def _in_range(graph: fx.Graph, target: fx.Node, classes: int) -> fx.Node:
    """Refuse a target outside ``[-1, classes)`` before the network runs: ``[-1, 0, 1, ...][target + 1]``."""
    aten = torch.ops.aten
    ones = graph.call_function(aten.new_ones, (target, [classes + 1]))
    table = graph.call_function(aten.sub, (graph.call_function(aten.cumsum, (ones, 0)), 2))
    return graph.call_function(aten.gather, (table, 0, graph.call_function(aten.add, (target, 1))))


def _added(graph: fx.Graph, a: Any, b: Any) -> fx.Node:
    """Add two sizes."""
    return graph.call_function(operator.add, (a, b))


def _not_a_number(graph: fx.Graph, value: float) -> float | fx.Node:
    """Write NaN as a call: TorchScript knows no name of it."""
    return graph.call_function(float, ("nan",)) if math.isnan(value) else value


_PLAIN: dict[Any, Any] = {
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_float: float,
    math.trunc: int,
    torch.sym_sqrt: math.sqrt,
}
"""Functions of sizes -> those of plain numbers, which TorchScript knows."""


class _Folder(nn.Module):
    """Holds tensors and other folders, so that a qualified name is a path of attributes."""

    def __init__(self) -> None:
        # Its own, because torch.jit.script warns of the annotations in nn.Module.__init__.
        super().__init__()


def to_module(program: Program) -> fx.GraphModule:
    """Return the program as a plain module: ``forward(*inputs)`` on real tensors of the program's sizes.

    The module holds the tensors under their qualified names, so that its state dict reads like the
    model's. Its operators are overload packets, which is what ``torch.jit.script`` understands. Like a model, it runs
    on the device that it was moved to: constants are made where the first input is.
    """
    root = _Folder()
    for name, tensor in program.tensors.items():
        *path, leaf = name.split(".")
        owner: nn.Module = root
        for part in path:
            if not isinstance(getattr(owner, part, None), nn.Module):
                owner.add_module(part, _Folder())
            owner = getattr(owner, part)
        owner.register_buffer(leaf, tensor.detach())
    names = program.names()
    graph = fx.Graph()
    given: list[tuple[fx.Node, fx.Node]] = []
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and names[node] in program.tensors:
            copies[node] = graph.get_attr(names[node])
        elif node.op == "placeholder":
            given.append((node, graph.placeholder(names[node], type_expr=Tensor)))
            copies[node] = given[-1][1]
            if len(given) == len(program.inputs):
                copies.update(_checked(graph, given, program.dimensions))
                if names[node] == TARGET:
                    copies[node] = _in_range(graph, copies[node], program.outputs[0].meta["val"].shape[1])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            args, kwargs = tree_map_only(float, partial(_not_a_number, graph), (args, kwargs))
            if "device" in kwargs:
                kwargs = {**kwargs, "device": graph.call_function(getattr, (given[0][1], "device"))}
            op = node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else node.target
            name = re.sub(r"\W", "_", scope_of(node))
            if op is round:  # to no decimals: in TorchScript that is no whole number yet
                op, args = int, (graph.call_function(round, args[:1]),)
            elif op is torch.sym_sum:  # of many terms; TorchScript knows it not
                *terms, last = args if len(args) > 1 else args[0]
                op, args = operator.add, (reduce(partial(_added, graph), terms), last)
            copies[node] = graph.create_node(node.op, _PLAIN.get(op, op), args, kwargs, name)
        copies[node].meta = dict(node.meta)
    return fx.GraphModule(root, graph, class_name="Explicit")


def interpret(
    program: Program,
    values: tuple[Any, ...],
    call: Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any],
    env: dict[fx.Node, Any] | None = None,
) -> dict[fx.Node, Any]:
    """Run a program's operators in order, each under its own scope.

    Args:
        program: What to run.
        values: A value for each placeholder.
        call: Computes an operator node from its arguments' values; see :func:`run_operator`.
        env: Where to put the values, for a ``call`` that needs to look at earlier ones.

    Returns:
        The value of every node but the output.
    """
    env = {} if env is None else env
    env.update(zip(program.placeholders, values, strict=True))
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            with traceback.annotate(node.meta.get("custom") or {}), any_size(node):
                env[node] = call(node, args, kwargs)
    return env


@contextmanager
def any_size(node: fx.Node) -> Iterator[None]:
    """Refuse a step of a trace that holds for the sample's sizes only.

    Where a function on fake tensors branches on a varying size, PyTorch takes the sample's branch and notes a guard.
    That two sizes are equal is a special case that must not become the program. That they differ is the general case.
    Which one is larger matters where this package asks; PyTorch's kernels ask to choose an implementation.

    Raises:
        UnsupportedOp: The step has asked for a size.
    """
    value = next((n.meta["val"] for n in (node, *node.all_input_nodes) if isinstance(n.meta.get("val"), Tensor)), None)
    shapes: Any = getattr(getattr(value, "fake_mode", None), "shape_env", None)
    before = len(shapes.guards) if shapes else 0
    yield
    for guard in shapes.guards[before:] if shapes else ():
        kind = type(guard.expr).__name__
        if kind != "Equality" and (kind == "Unequality" or not _is_ours(guard)):
            continue
        earlier = [other.expr for other in shapes.guards[:before]]
        if not implied(guard.expr, earlier, shapes.backed_var_to_val):
            asked = named(guard.expr, _names(node.graph))
            raise UnsupportedOp(f"{node.target} needs a fixed size: it depends on {asked} ({place_of(node)})")


def _names(graph: fx.Graph) -> dict[Any, str]:
    """Return what the varying sizes of a program's inputs are called."""
    found: dict[Any, str] = {}
    for node in graph.find_nodes(op="placeholder"):
        shape = node.meta["val"].shape
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                found.setdefault(size.node._expr, size_name(len(shape), axis, AXES))  # not what it was found to be
    return found


def _is_ours(guard: Any) -> bool:
    """Tell whether this package asked for a size, rather than a kernel of PyTorch's."""
    asked = getattr(guard.sloc.framework_loc, "filename", "")
    return Path(__file__).parent in Path(asked).parents


def run_operator(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a node's own operator."""
    op: Any = node.target
    found = _again(node, args, kwargs)
    return op(*args, **kwargs) if found is NotImplemented else found


def _again(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operator without running it on fake tensors, which is slow, where its value is known beforehand.

    That is, where each argument looks as it did in the node's own program: then so does the value. Elsewhere, and
    outside of a trace, ``NotImplemented``.
    """
    mode, value = get_proxy_mode(), node.meta.get("val")
    if mode is None or not isinstance(node.target, torch._ops.OpOverload) or not isinstance(value, Tensor):
        return NotImplemented
    before, now = tree_leaves((node.args, node.kwargs)), tree_leaves((args, kwargs))
    for was, value_now in zip(before, now, strict=True):
        if isinstance(was, fx.Node) and not (isinstance(value_now, Tensor) and looks_like(value_now, was.meta["val"])):
            return NotImplemented
    tracer: Any = mode.tracer
    given = tree_map_only(Tensor, lambda tensor: get_proxy_slot(tensor, tracer).proxy.node, (args, kwargs))
    copy = tracer.graph.create_node("call_function", node.target, *given, name=node.target.overloadpacket.__name__)
    copy.meta = dict(node.meta)
    track_tensor(value, fx.Proxy(copy, tracer), constant=None, tracer=tracer)
    return value
