"""Capture: an ``nn.Module`` in eval mode becomes a functional ATen program with a dynamic batch."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
import warnings
from collections.abc import Container, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.overrides import TorchFunctionMode

from exporter.errors import UnsupportedModel
from exporter.program import SCOPE, SOURCE, Program

IMAGE = "image"
RESERVED = ("image", "target", "logits", "attribution")
"""Names of an artifact's inputs and outputs."""

BATCH = "batch"


def capture(model: nn.Module, example: Tensor) -> Program:
    """Capture a model's forward pass.

    Args:
        model: The network; it is captured in eval mode and left in the mode that it was in.
        example: One batch ``[N, ...]`` of any size ``N >= 1``; only its shape and dtype matter.

    Returns:
        A program with the one input ``image`` ``[batch, ...]`` and the model's output.

    Raises:
        UnsupportedModel: The model's control flow depends on data, it needs a fixed batch size, or it
            does not return a single tensor ``[N, K]``.
    """
    with evaluating(model):
        alone, together = _probe(model, example)
        exported = _export(model, example)
        program = _program(model, exported)
        _check_rows(model, example, alone, together)
    return program


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module of it back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _probe(model: nn.Module, example: Tensor) -> tuple[Tensor, Tensor]:
    """Run the model, so that a model that does not run at all is told apart from one we cannot capture.

    Returns:
        The logits of one input alone, and of the same input with another.
    """
    pair = _pair(example)
    alone, together = _run(model, pair[:1]), _run(model, pair)
    if isinstance(alone, Exception) and isinstance(together, Exception):
        raise UnsupportedModel(
            f"{_name(model)} does not run on an input of shape {tuple(pair[:1].shape)} ({pair.dtype}): "
            f"{_first_line(alone)}. Check --input-shape and the weights."
        ) from alone
    if isinstance(alone, Exception) or isinstance(together, Exception):
        raise UnsupportedModel(_FIXED_BATCH.format(_name(model), ""))
    if not isinstance(alone, Tensor):
        raise UnsupportedModel(
            f"{_name(model)} returns {type(alone).__name__}, not a tensor of logits [N, K]. "
            "Wrap it in a module that returns the logits alone."
        )
    if alone.ndim != 2 or alone.shape[0] != 1 or alone.shape[1] == 0:
        raise UnsupportedModel(
            f"{_name(model)} returns a tensor of shape {tuple(alone.shape)} for one input; "
            "an attribution needs logits [N, K], one row of K class scores per input."
        )
    if not alone.isfinite().all():
        raise UnsupportedModel(f"{_name(model)} returns NaN or infinity for a standard normal input; check its weights")
    return alone, together


def _check_rows(model: nn.Module, example: Tensor, alone: Tensor, together: Tensor) -> None:
    """Refuse a model whose logits for one input depend on chance, or on the other inputs of the batch.

    An attribution is a derivative of one row of logits; where rows depend on each other there is none for a sample.
    """
    if not torch.equal(alone, _run(model, _pair(example)[:1])):
        raise UnsupportedModel(
            f"{_name(model)} returns other logits for the same input each time, in eval mode: "
            "a dropout or a noise layer is active. Pass training=self.training to F.dropout."
        )
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        raise UnsupportedModel(
            f"the logits of {_name(model)} for one input depend on the other inputs of its batch (a reduction, "
            "a softmax or a normalisation over dimension 0?), so no sample has an attribution of its own."
        )


def _pair(example: Tensor) -> Tensor:
    """Return two different inputs of the example's shape and dtype."""
    return torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example.dtype)


_FIXED_BATCH = "{} works with a fixed batch size only; use x.shape[0] or -1 in place of the number{}."


def _run(model: nn.Module, image: Tensor) -> Any:
    """Return a model's output, or the error that it raised."""
    try:
        with torch.no_grad():
            return model(image.clone())
    except Exception as error:
        return error


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    # torch.export specialises sizes 0 and 1, so the batch that it sees must be larger.
    image = example[:1].expand(2, *example.shape[1:]).clone()
    try:
        with _quiet(), _WithoutDropout():
            exported = torch.export.export(model, (image,), dynamic_shapes=({0: Dim(BATCH)},))
            return exported.run_decompositions({})  # functional: no operator writes into a tensor
    except Exception as error:
        message = str(error)
        if "specialized" in message or "Constraints violated" in message:
            raise UnsupportedModel(_FIXED_BATCH.format(_name(model), _place(message))) from error
        if "data-dependent" in message or "GuardOnDataDependent" in type(error).__name__:
            raise UnsupportedModel(
                f"the control flow of {_name(model)} depends on the data{_place(message)}, so no fixed graph "
                "describes it. Rewrite the branch with torch.where, or export the branch that you need."
            ) from error
        raise UnsupportedModel(f"torch.export cannot capture {_name(model)}: {_first_line(error)}") from error


class _WithoutDropout(TorchFunctionMode):
    """Lets a dropout that does nothing return its input itself, as PyTorch does.

    torch.export takes the result for a copy: what is then written into one of the two would be missing in the other.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, or leave it out."""
        kwargs = kwargs or {}
        if func in (F.dropout, torch.dropout) and not _drops(*args, **kwargs):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


def _drops(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, train: bool = True) -> bool:
    return p > 0 and training and train


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


def _program(model: nn.Module, exported: torch.export.ExportedProgram) -> Program:
    """Order the placeholders as a program has them, keep used tensors only, name every node's scope."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    tensors: dict[str, Tensor] = {}
    values = {**exported.state_dict, **exported.constants}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    nodes = {node.name: node for node in exported.graph.nodes}
    logits = nodes[exported.graph_signature.user_outputs[0]]
    user_inputs = [nodes[name] for name, spec in specs.items() if spec.kind is InputKind.USER_INPUT]
    if any(isinstance(specs[node.name].arg, ConstantArgument) for node in user_inputs) or len(user_inputs) != 1:
        raise UnsupportedModel(f"{_name(model)} must take exactly one tensor")
    copies[user_inputs[0]] = graph.placeholder(IMAGE)
    copies[user_inputs[0]].meta = dict(user_inputs[0].meta)
    names = _Names({name for name, module in model.named_modules() if name and not any(module.children())})
    for node in exported.graph.nodes:
        if node in copies or (node.op == "placeholder" and not node.users):
            continue
        if node.op == "output":  # without the input's new value, where the model writes into its input
            graph.output((copies[logits],))
            break
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
        if node.op == "placeholder":
            target = specs[node.name].target
            assert target is not None
            tensors[_free(target, values)] = values[target].detach()
        elif node.op == "call_function":
            copies[node].meta["custom"] = {SCOPE: names.scope(node), SOURCE: _source_line(node)}
    _check_outputs(model, exported, user_inputs[0], logits)
    return Program(graph, (IMAGE,), tensors)


def _check_outputs(model: nn.Module, exported: torch.export.ExportedProgram, image: fx.Node, logits: fx.Node) -> None:
    mutated = exported.graph_signature.buffers_to_mutate
    if mutated:
        raise UnsupportedModel(
            f"{_name(model)} writes into its buffers in eval mode ({', '.join(sorted(mutated.values()))}); "
            "an artifact has no state. Remove the update from the eval path."
        )
    rows = logits.meta["val"].shape[0]
    if str(rows) != str(image.meta["val"].shape[0]):
        raise UnsupportedModel(
            f"{_name(model)} returns {rows} row(s) of logits for a batch of any size; "
            "an attribution needs logits [N, K], one row of K class scores per input."
        )


def _free(name: str, taken: Container[str]) -> str:
    """Return a tensor's name, changed where an input or an output of the artifact has it."""
    first, dot, rest = name.partition(".")
    free = first
    while free in RESERVED or (free != first and f"{free}{dot}{rest}" in taken):
        free += "_"
    return f"{free}{dot}{rest}"


class _Names:
    """Gives each operator the name of the module call that it belongs to, once."""

    def __init__(self, leaves: set[str]) -> None:
        self._leaves = leaves
        self._calls: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def scope(self, node: fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        call = next(reversed(stack), "")
        path = stack[call][0] if call else ""
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


def _source_line(node: fx.Node) -> str:
    """Return ``file.py:line`` of the user's code that a captured node comes from, or an empty string."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _place(message: str) -> str:
    frames = [frame for frame in re.findall(r'File "([^"]+)", line (\d+)', message) if "/torch/" not in frame[0]]
    return f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
