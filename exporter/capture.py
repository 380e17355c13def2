"""Capture: an ``nn.Module`` in eval mode becomes a functional ATen program with a dynamic batch."""

from __future__ import annotations

import contextlib
import io
import itertools
import keyword
import logging
import re
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from traceback import FrameSummary
from typing import Any

import torch
from sympy import Eq, Integer
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind

from exporter.dynamic import Refusal, dimensions, fixed, fixed_at, implied
from exporter.errors import UnsupportedModel, first_line
from exporter.functional import functionalize, writes_into_views
from exporter.layout import layout_unasked
from exporter.lines import bracketed, in_text, of_error, of_frame, raised_by, statement
from exporter.network import Network, as_network, draw, evaluating, run
from exporter.precision import Throughout
from exporter.program import SCOPE, SOURCE, Program
from exporter.rewritten import UNCOMPARED, Rewritten
from exporter.signature import ATTRIBUTION, BATCH, FLOATS, IMAGE, LOGITS, TARGET, Dimension, Input, Signature
from exporter.sizes import known
from exporter.uncollected import uncollected


def capture(
    model: nn.Module, example: Tensor | Mapping[str, Tensor] | None = None, dynamic: Sequence[str] = (BATCH,)
) -> Program:
    """Capture a network's forward pass.

    Args:
        model: The network; it is captured in eval mode and left in the mode that it was in. A
            :class:`exporter.network.Network` says itself how it is called.
        example: For any other module, one batch ``[N, ...]`` of any size ``N >= 1``, or one for each input by name;
            only shapes and dtypes matter.
        dynamic: The sizes that may vary, for a model that is no ``Network``.

    Returns:
        A program of the inputs ``[batch, ...]``, ``image`` where they have no names, and of the logits.

    Raises:
        UnsupportedModel: The model's control flow depends on data, it needs a fixed batch size, it does not return
            logits ``[N, K]``, or a size that should vary cannot.
        UsageError: The model is not on the CPU.
    """
    if isinstance(model, Network):
        network = model
    else:
        assert example is not None
        network = as_network(model, example, dynamic=dynamic)
    with evaluating(network):
        alone, together = _probe(network)
        exported = _export(network)
        program = _program(network, exported)
        _check_rows(network, alone, together)
    return program


def _probe(network: Network) -> tuple[Tensor, Tensor]:
    """Run the model, so that a model that does not run at all is told apart from one we cannot capture.

    Returns:
        The logits of one sample alone, and of the same sample with another.
    """
    pair, name = _pair(network), _name(network)
    alone, together = _run(network, _first(pair)), _run(network, pair)
    if isinstance(alone, UnsupportedModel):
        raise alone
    if isinstance(alone, Exception) and isinstance(together, Exception):
        shapes = " and ".join(f"{tuple(one[:1].shape)} ({one.dtype})" for one in pair)
        raise UnsupportedModel(
            f"{name} does not run on an input of shape {shapes}: {first_line(alone)}. {_what_to_check(network, alone)}"
        ) from alone
    if isinstance(alone, Exception):  # batch norm in training mode is one
        raise UnsupportedModel(
            f"{name} runs on two inputs but not on one: {first_line(alone)}. A batch has any size: "
            "normalise by stored statistics, as eval mode does, and use x.shape[0] or -1 in place of a number."
        ) from alone
    if isinstance(together, Exception):
        raise UnsupportedModel(_FIXED_BATCH.format(name, "")) from together
    if alone.ndim != 2 or alone.shape[0] != 1 or alone.shape[1] == 0:
        raise UnsupportedModel(
            f"{name} returns a tensor of shape {tuple(alone.shape)} for one input; "
            f"an attribution needs logits [N, K], one row of K class scores per input{_how_to_shape(alone, together)}."
        )
    if alone.dtype not in _FLOATS:
        raise UnsupportedModel(
            f"{name} returns logits of {str(alone.dtype).removeprefix('torch.')}; an artifact's are of "
            f"{', '.join(FLOATS)}. Return scores, and not classes."
        )
    if not alone.isfinite().all():
        raise UnsupportedModel(f"{name} returns NaN or infinity for a standard normal input; check its weights")
    return alone, together


def _how_to_shape(alone: Tensor, together: Any) -> str:
    """Say how scores become logits ``[N, K]``, from those of one sample and of two; nothing where it is unknown."""
    if isinstance(together, Tensor) and together.shape[:1] == (2,) and together.ndim == alone.ndim + 1:
        more = "" if together.ndim == 2 else "; a binary score needs unsqueeze(1)"
        return f": squeeze() drops a batch of one, name its dimension{more}"
    if alone.shape == (1,):
        return "; a binary score needs unsqueeze(1)"
    if alone.ndim == 3 and alone.shape[0] == 1:
        return "; take .mean(-1) or .sum(-1) of scores at each position"
    return ""


def _what_to_check(network: Network, error: Exception) -> str:
    """Say what is likely the matter with how a network is called that does not run."""
    line = raised_by(error)
    by_name = isinstance(error, (TypeError, IndexError)) and _BY_NAME.search(statement(line))
    if by_name or (isinstance(error, AttributeError) and error.name in _OF_DICT and _is_input(error.obj, network)):
        return f"Its forward takes a dict{bracketed(line)}: wrap it in a module whose forward takes tensors."
    if not network.takes_its_inputs():
        return "Give one --input for each tensor that it takes."
    if [given.name for given in network.signature.inputs] == [IMAGE]:
        return "Check --input-shape and the weights."
    return "Check the shape and the dtype of each --input, and the weights."


_BY_NAME = re.compile(r"\w\[f?[\"']")
"""Source that takes something out of a dict."""

_OF_DICT = {"get", "items", "keys", "pop", "setdefault", "update"}
"""What a dict has and no tensor."""


def _is_input(value: object, network: Network) -> bool:
    """Tell whether a value may be what a network was given, as far as its shape tells."""
    return isinstance(value, Tensor) and any(value.shape[1:] == given.shape for given in network.signature.inputs)


_FLOATS = {getattr(torch, name) for name in FLOATS}


def _check_rows(network: Network, alone: Tensor, together: Tensor) -> None:
    """Refuse a model whose logits for one sample depend on chance, or on the other samples of the batch.

    An attribution is a derivative of one row of logits; where rows depend on each other there is none for a sample.
    """
    if not torch.equal(alone, _run(network, _first(_pair(network)))):
        raise UnsupportedModel(
            f"{_name(network)} returns other logits for the same input each time, in eval mode: "
            "a dropout or a noise layer is active. Pass training=self.training to F.dropout."
        )
    rtol = 1e-3 if alone.dtype != torch.float16 else 3e-2
    if not torch.allclose(together[:1], alone, rtol=rtol, atol=rtol * float(alone.abs().max())):
        raise UnsupportedModel(
            f"the logits of {_name(network)} for one input depend on the other inputs of its batch (a reduction, "
            "a softmax or a normalisation over dimension 0?), so no sample has an attribution of its own."
        )


def _pair(network: Network) -> tuple[Tensor, ...]:
    """Return two different samples, for each input."""
    return draw(network.signature.inputs, 2, torch.Generator().manual_seed(0))


def _first(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor[:1] for tensor in inputs)


_FIXED_BATCH = (
    "{} works with a fixed batch size only; use x.shape[0] or -1 in place of the number, or of len(x){}. "
    "int(), float() and comparisons make a number of it too: write a // b for int(a / b)."
)


def _run(network: Network, inputs: tuple[Tensor, ...]) -> Any:
    """Return a model's logits, or the error that it raised."""
    try:
        return run(network, inputs)
    except Exception as error:
        return error


@uncollected()
def _export(network: Network) -> torch.export.ExportedProgram:
    # torch.export specialises sizes 0 and 1, so the batch that it sees must be larger.
    inputs = tuple(torch.zeros_like(tensor) for tensor in _pair(network))
    batch = Dim(BATCH)
    sizes = tuple(
        {axis: batch if name == BATCH else Dim.AUTO for axis, name in network.signature.dynamic_axes(given).items()}
        for given in network.signature.inputs
    )
    try:
        with _quiet(), layout_unasked():
            exported = _traced(network, inputs, sizes, Rewritten())
            varying = any(name != BATCH for name in network.signature.dynamic)
            if varying and writes_into_views(exported):
                exported = _traced(network, inputs, sizes, Rewritten(but={Tensor.contiguous}))
            return functionalize(exported)
    except UnsupportedModel:
        raise
    except Exception as error:
        message = str(error)
        if "specialized" in message or "Constraints violated" in message:
            raise UnsupportedModel(_FIXED_BATCH.format(_name(network), bracketed(_fixed_batch_at(network)))) from error
        if "data-dependent" in message or "GuardOnDataDependent" in type(error).__name__:
            line = in_text(message)
            advice = "Rewrite the branch with torch.where, or export the branch that you need"
            if statement(line).startswith("assert"):
                advice = "Remove the assertion"
            raise UnsupportedModel(
                f"the control flow of {_name(network)} depends on the data{bracketed(line)}, so no fixed graph "
                f"describes it. {advice}."
            ) from error
        raise UnsupportedModel(f"torch.export cannot capture {_name(network)}: {first_line(error)}") from error


def _traced(
    network: Network, inputs: tuple[Tensor, ...], sizes: tuple[dict[int, Any], ...], rewritten: Rewritten
) -> torch.export.ExportedProgram:
    throughout = Throughout() if network.signature.dtype == "float64" else contextlib.nullcontext()
    with rewritten, UNCOMPARED(), throughout:
        return torch.export.export(network, inputs, dynamic_shapes=(sizes,))


def _fixed_batch_at(network: Network) -> str:
    """Return the line that makes a constant of the batch, from a capture that lets it; nothing where it is unknown."""
    pair = _pair(network)
    with _quiet(), contextlib.suppress(Exception):
        exported = torch.export.export(network, pair, dynamic_shapes=(tuple({0: Dim.AUTO} for _ in pair),))
        given = exported.graph_signature.user_inputs
        value = next(node.meta["val"] for node in exported.graph.nodes if node.name in given)
        batch, env = value.shape[0], value.fake_mode.shape_env
        return _asked_of(batch.node.expr, env) if known(batch) is None else fixed_at(env, len(pair[0]))
    return ""


def _asked_of(batch: Any, env: Any) -> str:
    """Return the line in which a question is asked of the batch that has another answer for others; or nothing."""
    for guard in env.guards:
        frame = guard.sloc.framework_loc
        bounds = (int(number) for number in guard.expr.atoms(Integer))
        sizes = (*range(2, 9), *(bound + more for bound in bounds for more in (0, 1) if bound > 1))
        answers = (guard.expr.xreplace({batch: Integer(size)}) for size in sizes)
        if batch in guard.expr.free_symbols and isinstance(frame, FrameSummary) and not all(map(bool, answers)):
            line = of_frame(frame)
            if line:
                return line
    return ""


def _why(network: Network, name: str, other: int) -> Refusal | None:
    """Say what the network raises at another value of a varying size, and where; None if it runs."""
    signature = network.signature
    resized = tuple(_resized(signature, given, name, other) for given in signature.inputs)
    error = _run(network, draw(resized, 2, torch.Generator().manual_seed(0)))
    if not isinstance(error, Exception):
        return None
    kept = " and ".join(given.name for given, new in zip(signature.inputs, resized, strict=True) if given == new)
    beside = f" while {kept} {'keep their' if ' and ' in kept else 'keeps its'} shape" if kept else ""
    text = f"at {other}{beside} it raises: {first_line(error)}{bracketed(of_error(error))}"
    ranks = "signals [N, L] and [N, C, L], sequences [N, T, F], images [N, C, H, W] and volumes [N, C, D, H, W]"
    return Refusal(text, f"Sizes vary in {ranks}: give {kept} such a shape" if kept else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what torch.export warns, logs and prints of its own internals; our error says where and why."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)


def _program(network: Network, exported: torch.export.ExportedProgram) -> Program:
    """Order the placeholders as a program has them, keep used tensors only, name every node's scope."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    tensors: dict[str, Tensor] = {}
    given = [given.name for given in network.signature.inputs]
    values = {_own(name): value for name, value in {**exported.state_dict, **exported.constants}.items()}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    nodes = {node.name: node for node in exported.graph.nodes}
    # An input's new value, where the model writes into its input, comes before what the model returns.
    kinds = [spec.kind for spec in exported.graph_signature.output_specs]
    logits = exported.graph.output_node().args[0][kinds.index(OutputKind.USER_OUTPUT)]
    user_inputs = [nodes[name] for name, spec in specs.items() if spec.kind is InputKind.USER_INPUT]
    for name, node in zip(given, user_inputs, strict=True):
        copies[node] = graph.placeholder(name)
        copies[node].meta = dict(node.meta)
    names = _Names({name for name, module in network.model.named_modules() if name and not any(module.children())})
    for node in exported.graph.nodes:
        if node in copies or (node.op == "placeholder" and not node.users):
            continue
        if node.op == "get_attr":
            caller = next(iter(node.users), node)
            line = bracketed(in_text(caller.meta.get("stack_trace") or ""))
            raise UnsupportedModel(
                f"{_name(network)} calls {caller.target} on functions of its own{line}, and a graph has no branches "
                "and no loops: write a branch with torch.where, and a loop in Python."
            )
        if node.op == "output":
            graph.output((copies[logits],))
            break
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
        if node.op == "placeholder":
            target = specs[node.name].target
            assert target is not None
            tensors[_free(_own(target), values, given)] = values[_own(target)].detach()
        elif node.op == "call_function":
            line = in_text(node.meta.get("stack_trace") or "", or_any=True)
            copies[node].meta["custom"] = {SCOPE: names.scope(node), SOURCE: line}
    _check_outputs(network, exported, user_inputs[0], logits)
    return Program(graph, tuple(given), tensors, _dimensions(network, user_inputs))


def _own(name: str) -> str:
    """Return a tensor's or a module's name in the user's model, without the wrapper around it."""
    return name.removeprefix("model.")


def _dimensions(network: Network, inputs: Sequence[fx.Node]) -> tuple[Dimension, ...]:
    """Find out which values the varying sizes may have."""
    explain = partial(_why, network)
    sizes: dict[str, list[torch.SymInt]] = {}
    for given, node in zip(network.signature.inputs, inputs, strict=True):
        for axis, name in network.signature.dynamic_axes(given).items():
            value = node.meta["val"]
            constant = known(value.shape[axis])
            if constant is not None:
                asked = fixed_at(value.fake_mode.shape_env, constant)
                raise UnsupportedModel(fixed(name, constant, constant + 1, explain, asked))
            sizes.setdefault(name, []).append(value.shape[axis])
    return dimensions(sizes, explain)


def _resized(signature: Signature, given: Input, name: str, size: int) -> Input:
    """Return an input with another value of one varying size."""
    sizes = {axis: size for axis, varies in signature.dynamic_axes(given).items() if varies == name}
    return replace(given, shape=tuple(sizes.get(axis, have) for axis, have in enumerate(given.shape, start=1)))


def _check_outputs(network: Network, exported: torch.export.ExportedProgram, image: fx.Node, logits: fx.Node) -> None:
    mutated = sorted(map(_own, exported.graph_signature.buffers_to_mutate.values()))
    if mutated:
        raise UnsupportedModel(
            f"{_name(network)} writes into its buffers in eval mode ({', '.join(mutated)}); "
            "an artifact has no state. Remove the update from the eval path."
        )
    rows = logits.meta["val"].shape[0]
    if not _is_batch(rows, image.meta["val"]):
        raise UnsupportedModel(
            f"{_name(network)} returns {rows} row(s) of logits for a batch of any size; "
            "an attribution needs logits [N, K], one row of K class scores per input."
        )


def _is_batch(rows: int | torch.SymInt, image: Tensor) -> bool:
    """Tell whether a number of rows is the batch, however it is computed, as far as it can be tried.

    SAM's windows are undone by ``windows.shape[0] // (height * width // 14 // 14)``, for one.
    """
    batch: Any = image.shape[0]
    env, hints = batch.node.shape_env, batch.node.shape_env.backed_var_to_val
    earlier = [guard.expr for guard in env.guards]
    return not isinstance(rows, int) and implied(Eq(rows.node.expr, batch.node.expr, evaluate=False), earlier, hints)


def _free(name: str, taken: Container[str], inputs: Sequence[str]) -> str:
    """Return a tensor's name, changed where it cannot be an attribute, or an input or output of the artifact has it."""
    reserved = {*inputs, TARGET, LOGITS, ATTRIBUTION, *(f"{ATTRIBUTION}_{name}" for name in inputs), *_GRAPH_MODULES}
    parts = [f"{part}_" if keyword.iskeyword(part) else part for part in name.split(".")]
    free = ".".join(parts)
    while parts[0] in reserved or (free != name and free in taken):
        parts[0] += "_"
        free = ".".join(parts)
    return free


_GRAPH_MODULES = {"meta", *vars(fx.GraphModule)}
"""Attributes of its own that a module made of a graph has."""


class _Names:
    """Gives each operator the name of the module call that it belongs to, once."""

    def __init__(self, leaves: set[str]) -> None:
        self._leaves = leaves
        self._calls: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def scope(self, node: fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        call = next(reversed(stack), "")
        path = _own(stack[call][0]) if call and stack[call][0] != "model" else ""
        if path in self._leaves:
            key = (call, path)  # a leaf's operators share its scope; a second call gets a second one
        else:
            kind = _op_name(node)
            key = (node.name, f"{path}.{kind}" if path else kind)
        if key not in self._calls:
            base = key[1]
            spare = (f"{base}_{count}" for count in itertools.count(1) if f"{base}_{count}" not in self._leaves)
            self._calls[key] = next(name for name in itertools.chain([base], spare) if name not in self._taken)
            self._taken.add(self._calls[key])
        return self._calls[key]


def _op_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return getattr(target, "__name__", str(target))


def _name(network: Network) -> str:
    return type(network.model).__name__
