"""A user's model as a function of tensors: called as its signature says, answering with logits ``[N, K]`` alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from exporter.checkpoints import without_checkpoints
from exporter.errors import UnsupportedModel, UsageError, first_line
from exporter.signature import BATCH, IMAGE, Input, Signature
from exporter.sources.weights import check_present

Module = TypeVar("Module", bound=nn.Module)

SUMMED = {4: "sum over height and width", 5: "sum over depth, height and width"}
"""Rank of a segmentation network's scores, ``[N, K, H, W]`` or ``[N, K, D, H, W]`` -> how they become logits."""


_TRACED: Any = torch.jit.TopLevelTracedModule  # type: ignore[attr-defined]
"""What ``torch.jit.trace`` makes; a capture sees through a part of it, as it does not through what is scripted."""


class Network(nn.Module):
    """A model, and how it is called: ``network(*inputs) -> logits [N, K]``.

    Everything after this, the capture as well as the judge, sees this function and nothing else of the model.

    Attributes:
        model: The user's own, untouched; what ``torch.compile`` has wrapped is taken out of it.
        signature: How it is called.
    """

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        """Wrap a model; it keeps its mode and its tensors.

        Raises:
            UsageError: The model is no module, not on the CPU, or has no values yet.
            UnsupportedModel: It is TorchScript, or a part of it that cannot be seen through is.
        """
        super().__init__()
        check_module(model)
        model = uncompiled(model)
        check_present(model, type(model).__name__)
        scripted = _scripted(model)
        if scripted is not None:
            where = f"{type(model).__name__} has a part in TorchScript, {scripted}" if scripted else "it is TorchScript"
            raise UnsupportedModel(f"{where}: its rectifiers cannot be told apart; build it from nn.Modules alone")
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.device.type != "cpu":
                raise UsageError(f"{type(model).__name__} has {name} on {tensor.device}; call model.cpu() first")
        self.model = model
        self.signature = signature
        self.training = model.training
        names = [given.name for given in signature.inputs]
        self._keywords = names if set(names) <= _parameters(model) else None

    def takes_its_inputs(self) -> bool:
        """Tell whether the model's ``forward`` can be called with the inputs, as far as that is known."""
        names = [given.name for given in self.signature.inputs]
        try:
            signature = inspect.signature(self.model.forward)
            signature.bind(*([] if self._keywords else names), **dict.fromkeys(self._keywords or ()))
        except ValueError:  # written in another language
            return True
        except TypeError:
            return False
        return True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the model and take the logits out of what it returns.

        Inputs go by name where the model's ``forward`` has parameters of these names, else by position.

        Raises:
            UnsupportedModel: The model returns no logits ``[N, K]`` where the signature looks for them.
        """
        scores = self.scores(*inputs)
        return scores.sum(tuple(range(2, scores.ndim))) if scores.ndim in SUMMED else scores

    def scores(self, *inputs: Tensor) -> Tensor:
        """Return what the model answers with where the signature looks: ``[N, K]``, or scores as in :data:`SUMMED`."""
        if self._keywords is None:
            return self._pick(self.model(*inputs))
        return self._pick(self.model(**dict(zip(self._keywords, inputs, strict=True))))

    def reduction(self) -> str | None:
        """Say how the scores become logits, or None where they are logits already; runs the model on one sample."""
        inputs = draw(self.signature.inputs, 1, torch.Generator().manual_seed(0))
        with evaluating(self):
            return SUMMED.get(run(self.scores, inputs).ndim)

    def _pick(self, output: Any) -> Tensor:
        name, key = type(self.model).__name__, self.signature.output_key
        found, path = output, ""
        for part in key.split(".") if key else ():
            inside = _item(found, part)
            if inside is None:
                raise UnsupportedModel(f"{name} returns nothing at --output-key {key!r}. {_offer(found, path)}")
            found, path = inside, f"{path}{part}."
        if not isinstance(found, Tensor):
            hint = _offer(found, path) if _choices(found) else "Wrap it in a module that returns the logits alone."
            raise UnsupportedModel(f"{name} returns {type(found).__name__}, not a tensor of logits [N, K]. {hint}")
        return found


def run(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Call a network without gradients; with them if it raises otherwise, as one does that puts hooks on activations.

    The inputs may be written into and stay what they are.
    """
    try:
        with torch.no_grad():
            return function(*(x.clone() for x in inputs))
    except UnsupportedModel:
        raise
    except Exception as error:
        leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        with suppress(Exception), torch.enable_grad():
            return function(*(leaf.clone() for leaf in leaves)).detach()
        raise error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, where checkpoints are plain calls, and each module back into its own afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        with suppress(NotImplementedError):  # by what torch.export has made, which has one mode
            model.eval()
        with without_checkpoints():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def copied(model: Module) -> Module:
    """Return a deep copy; of what a module keeps of a run with gradients, a weight norm's weight for one, the values.

    PyTorch refuses to copy the way to such a tensor.

    Raises:
        UnsupportedModel: Something in it is not to be copied.
    """
    kept = (tensor for module in model.modules() for tensor in tree_leaves(vars(module)) if isinstance(tensor, Tensor))
    values = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, values)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(getattr(model, 'model', model)).__name__} cannot be copied for another dtype: {first_line(error)}; "
            "convert it beforehand, or keep out of it what Python does not copy"
        ) from error


def check_module(model: Any) -> None:
    """Refuse what is no network.

    Raises:
        UsageError: The model is something else, its class for example.
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UsageError(f"the model is {what}, and must be an instance of nn.Module")


def uncompiled(model: nn.Module) -> nn.Module:
    """Return a model without ``torch.compile``, which would compile it anew for every batch of the proof.

    Modules that hold a compiled one are replaced by shallow copies, so that the user's stay as they are.
    """
    found: dict[nn.Module, nn.Module] = {}

    def plain(module: nn.Module) -> nn.Module:
        if module not in found:
            found[module] = module  # one that holds itself
            found[module] = _plain(module, plain)
        return found[module]

    return plain(model)


_DYNAMO = "torch._dynamo.eval_frame"
"""Where the wrapper is defined; it is not imported for this, which takes a second."""


def _plain(module: nn.Module, plain: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return a module in which each other is what ``plain`` makes of it, and which is not compiled itself."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    inner = module._modules.get("_orig_mod") if type(module).__module__ == _DYNAMO else None
    if inner is not None and not module._forward_hooks and not module._forward_pre_hooks:
        return plain(inner)
    parts = {name: None if part is None else plain(part) for name, part in module._modules.items()}
    same = all(part is module._modules[name] for name, part in parts.items())
    if same and not getattr(module, "_compiled_call_impl", None):  # by what module.compile() sets
        return module
    new = object.__new__(type(module))  # a graph module's own __new__ makes another class
    new.__dict__ = {**vars(module), "_modules": parts, "_compiled_call_impl": None}
    return new


def as_network(
    model: nn.Module,
    example: Tensor | Mapping[str, Tensor],
    output_key: str | None = None,
    dynamic: Sequence[str] = (BATCH,),
) -> Network:
    """Wrap a model with the signature that example inputs, batches ``[N, ...]``, show."""
    named = example if isinstance(example, Mapping) else {IMAGE: example}
    for name, given in named.items():
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            raise UsageError(
                f"the example of input {name!r} is a {type(given).__name__}; give a tensor, a batch [N, ...]"
            )
    inputs = tuple(
        Input(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")) for name, tensor in named.items()
    )
    return Network(model, Signature(inputs, output_key, tuple(dynamic)))


def draw(inputs: Sequence[Input], count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw a batch for each input: standard normal, or, of whole numbers and booleans, zeros and ones."""
    return tuple(
        torch.randn(count, *given.shape, generator=generator).to(getattr(torch, given.dtype))
        if given.attributed
        else torch.randint(2, (count, *given.shape), generator=generator).to(getattr(torch, given.dtype))
        for given in inputs
    )


def _scripted(model: nn.Module) -> str | None:
    """Return the name of a part that cannot be seen through, or None; what is traced counts with all that is in it.

    A part that was traced without convolutions may go to the trial.
    """
    traced: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, _TRACED):
            if not name or "aten::_convolution" in str(module.inlined_graph):
                return name
            traced += (f"{name}.",)
        elif isinstance(module, torch.jit.ScriptModule) and not name.startswith(traced):
            return name
    return None


def _parameters(model: nn.Module) -> set[str]:
    """Return the names that a model's ``forward`` takes as keywords."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # written in another language
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _item(output: Any, key: str) -> Any:
    """Return an entry of a mapping, a sequence or an object with attributes; None if there is none."""
    if isinstance(output, Mapping):
        return output.get(key)
    if isinstance(output, (tuple, list)) and key.removeprefix("-").isdigit():
        index = int(key)
        return output[index] if -len(output) <= index < len(output) else None
    return None if isinstance(output, Tensor) else getattr(output, key, None)


def _choices(output: Any) -> list[str]:
    """Return the keys under which an output holds something."""
    held: dict[Any, Any] = {}
    if isinstance(output, Mapping):
        held = dict(output)
    elif isinstance(output, (tuple, list)):
        held = dict(enumerate(output))
    elif is_dataclass(output):
        held = {field.name: getattr(output, field.name) for field in fields(output)}
    elif not isinstance(output, Tensor):
        held = getattr(output, "__dict__", {})
    holding = (Tensor, Mapping, tuple, list)
    return [str(key) for key, value in held.items() if isinstance(value, holding) or hasattr(value, "__dict__")]


def _offer(output: Any, path: str) -> str:
    """Say which keys there are inside of what stands under a path."""
    choices = [f"{path}{choice}" for choice in _choices(output)]
    if not choices:
        what = "one tensor" if isinstance(output, Tensor) else f"of type {type(output).__name__}"
        return f"{path.removesuffix('.')!r} is {what}." if path else f"What it returns is {what}."
    return f"Pick the logits with --output-key {' or '.join(choices)}."
