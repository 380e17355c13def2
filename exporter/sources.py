"""Where networks and weights come from: a ``--model`` SPEC and a ``--weights`` FILE."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import models
from exporter.errors import UsageError

DEFAULT_SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Source:
    """A network, ready to export, and what is known of it.

    Attributes:
        spec: What ``--model`` said.
        name: Short name for folders and tables.
        model: The network in eval mode, its weights loaded.
        sample_shape: One input's shape, without the batch.
        weights: Where the weights come from, in words.
        trained: Whether they were loaded from a file rather than drawn from a seed; None where only the factory knows.
        preprocessing: From pixels to the input, where the zoo knows it.
        classes: Names of the classes, where the zoo knows them.
    """

    spec: str
    name: str
    model: nn.Module
    sample_shape: tuple[int, ...]
    weights: str
    trained: bool | None
    preprocessing: models.Preprocessing | None = None
    classes: tuple[str, ...] | None = None

    def describe(self) -> dict[str, Any]:
        """Return what a manifest's ``model`` section says of the source."""
        described: dict[str, Any] = {"spec": self.spec, "weights": self.weights, "trained": self.trained}
        if self.preprocessing is not None:
            described["preprocessing"] = asdict(self.preprocessing)
        if self.classes is not None:
            described["classes"] = list(self.classes)
        return described


def resolve(
    spec: str, *, weights: Path | None = None, sample_shape: Sequence[int] | None = None, seed: int = 0
) -> Source:
    """Build a network from its SPEC and load its weights.

    Args:
        spec: A zoo name, or ``path/to/file.py:factory``, a callable without arguments.
        weights: A file with a state dict; default: what ships with the zoo, else the seed's random ones.
        sample_shape: One input's shape; default: the zoo entry's, else ``(3, 224, 224)``.
        seed: Of torch's generator while the network is built.

    Raises:
        UsageError: There is no such model, its factory fails, or the weights do not fit.
    """
    torch.manual_seed(seed)
    entry = None
    if ":" in spec or spec.endswith(".py"):
        name, model = _from_file(spec)
    else:
        entry = _zoo_entry(spec)
        name, model = entry.name, entry.factory()
    shape = tuple(sample_shape or (entry.input_shape if entry else DEFAULT_SHAPE))
    shipped = entry.weights if entry else None
    path = weights or shipped
    if path is not None:
        load_weights(model, path)
        origin = f"file {path.name}" if weights else f"shipped {path.name}"
    elif entry:
        origin = f"untrained, seed {seed}"
    else:
        origin = f"as the factory made them, seed {seed}"
    return Source(
        spec=spec,
        name=name,
        model=model.eval(),
        sample_shape=shape,
        weights=origin,
        trained=True if path is not None else False if entry else None,
        preprocessing=entry.preprocessing if entry else None,
        classes=entry.classes if entry and path is shipped and shipped is not None else None,
    )


def _zoo_entry(name: str) -> models.Entry:
    known = models.names()
    if name in known:
        return models.entry(name)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The zoo has {', '.join(known)}."
    raise UsageError(f"--model {name!r} is not in the zoo. {hint} Your own network is path/to/file.py:factory.")


def _from_file(spec: str) -> tuple[str, nn.Module]:
    file, _, factory_name = spec.rpartition(":")
    if not file or not factory_name or factory_name.endswith(".py"):
        raise UsageError(f"--model {spec!r}: name the factory too, path/to/file.py:factory")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"--model {spec!r}: there is no Python file {file}")
    with _users_imports(path.parent.resolve()):
        module = _import(path)
        factory = getattr(module, factory_name, None)
        if factory is None:
            near = difflib.get_close_matches(factory_name, [n for n in vars(module) if not n.startswith("_")], n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"--model {spec!r}: {file} defines no {factory_name!r}{hint}")
        if not callable(factory):
            raise UsageError(f"--model {spec!r}: {factory_name} is a {type(factory).__name__}, not a callable")
        try:
            model = factory()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"--model {spec!r}: {factory_name}() raised {type(error).__name__}: {error}{_line_in(path, error)}"
            ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {spec!r}: {factory_name}() returned {type(model).__name__}, not an nn.Module")
    return factory_name, model


@contextmanager
def _users_imports(folder: Path) -> Iterator[None]:
    """Let a user's file import what lies beside it, first of all a ``models`` package, which Saliport has too."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == models.__name__}
    hidden = ours if (folder / "models").is_dir() or (folder / "models.py").is_file() else {}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.update(hidden)


def _import(path: Path) -> ModuleType:
    """Run a user's file as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"saliport_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{path} cannot be imported: {type(error).__name__}: {error}{_line_in(path, error)}"
        ) from error
    return module


def _line_in(path: Path, error: BaseException) -> str:
    """Return `` (file.py:12)``, the last line of the user's file on the way to an error."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == path.name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({path}:{line})" if line else ""


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict strictly; a ``{"state_dict": …}`` wrapper and ``module.`` prefixes are understood.

    Raises:
        UsageError: The file is missing, not a state dict, asks to run code, or does not fit the network.
    """
    state = strip(read_weights(path))
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}  # counters; no part of the function
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unexpected or reshaped:
        found = [
            f"{len(keys)} {kind}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
            for kind, keys in (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", reshaped))
            if keys
        ]
        raise UsageError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(found)}. "
            "It was probably saved from another network or with another number of classes."
        )
    not_finite = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if not_finite:
        raise UsageError(f"{path} holds NaN or infinity in {', '.join(not_finite[:3])}")
    model.load_state_dict({**{key: own[key] for key in optional}, **state})


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read a file with ``weights_only=True``: data, never code."""
    if not path.is_file():
        raise UsageError(f"--weights {path}: there is no such file")
    try:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"--weights {path}: refused, it holds more than plain tensors and would run code. "
            "Save model.state_dict(), not the model."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"--weights {path}: cannot be read, it is damaged or no PyTorch file") from error
    if not isinstance(loaded, Mapping):
        raise UsageError(f"--weights {path}: holds a {type(loaded).__name__}, not a state dict")
    return loaded


def strip(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the bare state dict: without its wrapper, and without the prefix that ``nn.DataParallel`` adds."""
    state = loaded["state_dict"] if isinstance(loaded.get("state_dict"), Mapping) else loaded
    others = [key for key, value in state.items() if not isinstance(key, str) or not _plain(value)]
    if others or not state:
        raise UsageError(f"the weights are not a state dict: {', '.join(map(repr, others[:3])) or 'no tensors'}")
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def _plain(value: Any) -> bool:
    """Tell whether a value is a dense tensor of real numbers."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 of a network's state dict: names, dtypes, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
