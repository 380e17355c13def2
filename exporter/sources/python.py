"""Factories of the user's own: ``path/to/file.py:factory`` and ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.errors import UsageError
from exporter.sources.factory import call
from exporter.sources.library import LIBRARIES
from exporter.sources.origin import Made, class_and_first_line, did_you_mean

OWN_PACKAGES = ("exporter", "models")
"""Names of Saliport's own packages, which a user's folder may have too."""


@dataclass(frozen=True)
class Python:
    """A factory in a file or in an importable module.

    Attributes:
        spec: What ``--model`` said.
        place: The path of a ``.py`` file, or a module's dotted name.
        factory: The name of a callable there.
    """

    spec: str
    place: str
    factory: str

    weight_names = ()

    def make(self, arguments: Mapping[str, Any], weights: str | None) -> Made:
        """Import what holds the factory, and call it."""
        path = Path(self.place)
        is_file = path.suffix == ".py"
        if is_file and not os.path.isfile(path):
            raise UsageError(f"--model {self.spec!r}: there is no Python file {self.place}")
        with _users_imports(path.parent.resolve() if is_file else Path.cwd()):
            module = _run(path) if is_file else self._import()
            factory = getattr(module, self.factory, None)
            if factory is None:
                public = [name for name in vars(module) if not name.startswith("_")]
                near = difflib.get_close_matches(self.factory, public, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise UsageError(f"--model {self.spec!r}: {self.place} defines no {self.factory!r}{hint}")
            if not callable(factory):
                raise UsageError(f"--model {self.spec!r}: {self.factory} is a {type(factory).__name__}, not a callable")
            model = call(self.spec, factory, arguments, lambda error: _line_in(module.__name__, error))
        return Made(model, self.factory, random=None)

    def _import(self) -> ModuleType:
        try:
            return importlib.import_module(self.place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.place}.".startswith(f"{error.name}."):
                raise _unimportable(self.place, self.place, error) from error
            hint = did_you_mean(self.place, LIBRARIES)
            raise UsageError(
                f"--model {self.spec!r}: there is no module {error.name!r} in the current folder or among the "
                f"installed packages.{hint}"
            ) from error
        except (Exception, SystemExit) as error:
            raise _unimportable(self.place, self.place, error) from error


def _run(path: Path) -> ModuleType:
    """Run a user's file as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"saliport_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _unimportable(str(path), spec.name, error) from error
    return module


def _unimportable(place: str, module: str, error: BaseException) -> UsageError:
    return UsageError(f"{place} cannot be imported: {class_and_first_line(error)}{_line_in(module, error)}")


@contextmanager
def _users_imports(folder: Path) -> Iterator[None]:
    """Let a user's code import what lies in a folder, first of all packages named as Saliport's own are."""
    hidden = {name: module for name, module in sys.modules.items() if _shadows(folder, name.split(".")[0])}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.update(hidden)


def _shadows(folder: Path, package: str) -> bool:
    """Tell whether a folder has a package of the user's with the name of one of Saliport's."""
    if package not in OWN_PACKAGES:
        return False
    ours = Path(str(sys.modules[package].__file__)).parent
    theirs = folder / package
    return (folder / f"{package}.py").is_file() or (theirs.is_dir() and theirs.resolve() != ours.resolve())


def _line_in(module: str, error: BaseException) -> str:
    """Return `` (file.py:12)``, the last line of the user's own package on the way to an error."""
    package, line = module.split(".")[0], ""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] == package:
            line = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return line
