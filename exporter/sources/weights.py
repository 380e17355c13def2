"""Weights in files: read as data, unwrapped, compared with a network's own, and loaded strictly."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from exporter.errors import UsageError
from exporter.sources.mismatch import Layout, describe

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
"""Where training scripts keep a network's weights in a checkpoint."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
"""Where they keep the moving average of the weights."""

PREFIXES = ("module.", "_orig_mod.")
"""What ``nn.DataParallel`` and ``torch.compile`` put before every key."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating-point numbers that mean what they say; smaller ones need a scale from elsewhere."""

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Whole numbers, as counters and index tables have them."""


_EXTRA_STATE = "_extra_state"
"""How the keys end of what ``get_extra_state`` returns, tensors or not."""

_OPTIONAL = ("num_batches_tracked", _EXTRA_STATE)
"""How the keys end of counters, and of what a module keeps beside its tensors: no part of the function."""


def load_weights(model: nn.Module, path: Path) -> str:
    """Load a state dict strictly; a checkpoint's usual wrappers and a prefix of every key are understood.

    Args:
        model: The network.
        path: A ``.safetensors`` file, or any other for ``torch.load``.

    Returns:
        Which of the file's sets of weights was taken, in words; empty where it holds one.

    Raises:
        UsageError: The file is missing, damaged, not a state dict, asks to run code, or does not fit the network.
    """
    own = model.state_dict()
    state, taken = _unwrap(read_weights(path), f"--weights {path}", own)
    wanted = _layout(own)
    state = _without_prefix(state, set(wanted))
    found = _layout(state)
    if found != wanted:
        raise UsageError(f"{path} does not fit {type(model).__name__}: {describe(found, wanted)}")
    bad = _not_finite(state, _masks(model))
    if bad:
        raise UsageError(f"{path} holds NaN or infinity in {_listed(bad)}")
    optional = {key: value for key, value in own.items() if key.endswith(_OPTIONAL)}
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict({**optional, **fitting})
    return taken


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read a file's data; nothing in it is run.

    Args:
        path: A ``.safetensors`` file, or any other for ``torch.load(weights_only=True)``.

    Raises:
        UsageError: The file is missing, damaged, of another kind, or asks to run code.
    """
    if not path.is_file():
        raise UsageError(f"--weights {path}: {'is not a file' if path.exists() else 'there is no such file'}")
    loaded = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    if not isinstance(loaded, Mapping):
        raise UsageError(f"--weights {path}: holds a {type(loaded).__name__}, not a state dict")
    return loaded


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # whatever it is, it comes from the file
        why = str(error).removeprefix("Error while deserializing header: ")
        raise UsageError(f"--weights {path}: cannot be read, it is damaged or no safetensors file ({why})") from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that a TorchScript file is one; the error says so too
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is None:
            raise _damaged(path) from error
        raise UsageError(
            f"--weights {path}: refused, it holds more than plain tensors ({asked[1]}) and would run code. "
            "Save model.state_dict(), not the model."
        ) from error
    except Exception as error:  # a damaged pickle raises nearly anything
        if "TorchScript" in str(error):
            raise UsageError(
                f"--weights {path}: is a TorchScript program, not a state dict. "
                "Save the state_dict() of the model that it was made from."
            ) from error
        raise _damaged(path) from error


def _damaged(path: Path) -> UsageError:
    return UsageError(f"--weights {path}: cannot be read, it is damaged or no PyTorch file")


def strip(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the bare state dict: without a checkpoint's wrapper, and without the prefix of ``nn.DataParallel``.

    Raises:
        UsageError: There is no state dict.
    """
    return _unwrap(loaded, "the weights", ())[0]


def _unwrap(loaded: Mapping[str, Any], label: str, own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Return the bare state dict, and which of several sets of weights it is, in words.

    A prefix of every key of the network's ``own`` stays.
    """
    sets = [name for name in (*WRAPPERS, *AVERAGED) if isinstance(loaded.get(name), Mapping) and loaded[name]]
    found = loaded[sets[0]] if sets else loaded
    state = {key: value for key, value in found.items() if not str(key).endswith(_EXTRA_STATE)}
    others = [key for key, value in state.items() if not isinstance(key, str) or not _plain(value)]
    if others or not state:
        what = f"{', '.join(map(repr, others[:3]))} is no tensor of plain numbers" if others else "it holds no tensors"
        raise UsageError(f"{label}: not a state dict, {what}")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    rest = " or ".join(repr(name) for name in sets[1:])
    return dict(state), f", its {sets[0]!r}, not its {rest}" if rest else ""


def _plain(value: Any) -> bool:
    """Tell whether a value is a dense tensor of plain real numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.dtype in (*FLOATS, *INTEGERS)
        and not (value.is_quantized or value.is_meta)
    )


def _without_prefix(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Drop a prefix that stands before every key, ``model.`` or ``backbone.``, if the rest is the network's own keys.

    The network itself may have such a prefix; so it is dropped only where nothing else can be meant.
    """
    first = next(iter(state))
    for dot in re.finditer(r"\.", first):
        prefix = first[: dot.end()]
        bare = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if len(bare) == len(state) and wanted <= bare.keys():
            return bare
    return state


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict without what else a module keeps there, its ``get_extra_state``."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _layout(state: Mapping[str, Tensor]) -> Layout:
    return {
        key: (tuple(value.shape), value.is_floating_point())
        for key, value in state.items()
        if not key.endswith(_OPTIONAL)
    }


def check_present(model: nn.Module, label: str) -> None:
    """Refuse a network whose parameters or buffers have no values yet.

    Args:
        model: The network.
        label: Where it comes from, to begin the message.

    Raises:
        UsageError: With the names of the tensors.
    """
    tensors = _tensors(model)
    absent = [name for name, tensor in tensors.items() if is_lazy(tensor) or tensor.is_meta]
    if absent:
        raise UsageError(
            f"{label} has no values in {_listed(absent)}: on the meta device, or in a lazy layer that has not run yet"
        )


def check_finite(model: nn.Module, label: str) -> None:
    """Refuse a network whose parameters or statistics are not finite.

    Args:
        model: The network.
        label: Where it comes from, to begin the message.

    Raises:
        UsageError: With the names of the tensors.
    """
    tensors = _tensors(model)
    bad = _not_finite(tensors, _masks(model))
    if bad:
        raise UsageError(f"{label} holds NaN or infinity in {_listed(bad)}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _masks(model: nn.Module) -> set[str]:
    """Return the names of the buffers that may hold infinity, as the mask of an attention does: all but statistics."""
    return {name for name, _ in model.named_buffers() if not name.endswith(("running_mean", "running_var"))}


def _not_finite(tensors: Mapping[str, Tensor], masks: set[str]) -> list[str]:
    """Return the names of the tensors that hold NaN, or infinity where they are no masks."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.dtype in FLOATS}
    return [
        name
        for name, tensor in floating.items()
        if (tensor.isnan().any() if name in masks else not tensor.isfinite().all())
    ]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f', … ({len(names)} tensors)' if len(names) > 3 else ''}"


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 of a network's state dict: names, dtypes, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
