"""The artifact folder: its manifest, and how it is put in place whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ArtifactError, OtherVersion, UsageError

try:
    import fcntl
except ImportError:  # Windows: two exports into one folder at the same time may disturb each other there
    fcntl = None  # type: ignore[assignment]

SCHEMA = 2
"""Version of the manifest's schema, ``exporter/manifest.schema.json``."""

MANIFEST = "manifest.json"
SEAL = "manifest_sha256"
"""The manifest's last entry: its own hash."""

FILES = {"torchscript": "model.pt", "onnx": "model.onnx"}
"""Format -> file name."""

_OWN = {MANIFEST, *FILES.values()}

_CHANGED = f"has changed since it was written: its {SEAL} does not match; put it back as it was, or export again"


@dataclass(frozen=True)
class Artifact:
    """A finished folder.

    Attributes:
        folder: Where it is.
        manifest: What it holds; see ``exporter/manifest.schema.json``.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Artifact:
        """Read a folder's manifest, and check it by its own hash.

        Raises:
            ArtifactError: There is no manifest, it is not JSON, it has no schema, or it has changed.
            OtherVersion: Its schema is of another version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ArtifactError(f"{folder} is not an artifact: {path} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ArtifactError(f"{path} is not JSON: {error}") from error
        version = manifest.get("schema") if isinstance(manifest, dict) else None
        if version != SCHEMA:
            message = f"{path} has schema {version!r}; this version of Saliport reads {SCHEMA}"
            raise OtherVersion(message) if isinstance(version, int) else ArtifactError(message)
        missing = [key for key in ("model", "method", "inputs", "outputs", "files", "parity") if key not in manifest]
        if missing:
            raise ArtifactError(f"{path} is damaged: it lacks {', '.join(missing)}")
        files = manifest["files"]
        if not isinstance(files, dict) or not all(isinstance(file, dict) for file in files.values()):
            raise ArtifactError(f"{path} is damaged: its files are no table")
        for format, file in files.items():
            if FILES.get(format) != file.get("name") or "sha256" not in file:
                raise ArtifactError(f"{path} is damaged: its entry for {format!r} names no file of an artifact")
        if not _is_sealed(manifest):
            raise ArtifactError(f"{path} {_CHANGED}")
        return cls(folder, manifest)

    def file(self, format: str) -> Path:
        """Return the path of one format's file after checking its hash.

        Raises:
            ArtifactError: The artifact lacks the format, or the file is missing or not the one described.
        """
        described = self.manifest["files"].get(format)
        if described is None:
            have = ", ".join(self.manifest["files"])
            raise ArtifactError(f"{self.folder} holds no {format} file, only {have}; export it with --format {format}")
        path = self.folder / FILES[format]
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror})") from error
        if found != described["sha256"]:
            raise ArtifactError(f"{path} has changed since it was proven: sha256 {found}, not {described['sha256']}")
        return path

    def check(self) -> None:
        """Check every byte of the folder: each file by its hash, the manifest by its own.

        Raises:
            ArtifactError: A file is missing, has changed, or is not one that the manifest describes.
        """
        path = self.folder / MANIFEST
        if not _is_sealed(self.manifest) or path.read_bytes() != _text(self.manifest).encode():
            raise ArtifactError(f"{path} {_CHANGED}")
        for format in self.manifest["files"]:
            self.file(format)
        described = {MANIFEST, *(file["name"] for file in self.manifest["files"].values())}
        strays = sorted(entry.name for entry in self.folder.iterdir() if entry.name not in described)
        if strays:
            raise ArtifactError(f"{self.folder} holds what its manifest does not describe: {', '.join(strays[:3])}")


def spec_of(folder: Path) -> str | None:
    """Return which network's artifact a folder holds, by its ``--model`` SPEC; None if it holds none of a SPEC."""
    try:
        found: str | None = Artifact.open(folder).manifest["model"].get("spec")
    except (ArtifactError, AttributeError):
        return None
    return found


def sha256_of(path: Path) -> str:
    """Return a file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Return a written file's entry in the manifest."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest into a folder, sealed with its own hash; returns it as written."""
    sealed = {**manifest, SEAL: _seal(manifest)}
    (folder / MANIFEST).write_text(_text(sealed), encoding="utf-8")
    return sealed


def _seal(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's text as it would be without the seal."""
    text = _text(manifest).encode(errors="surrogatepass")  # JSON can say what UTF-8 cannot; then the hash is another
    return hashlib.sha256(text).hexdigest()


def _is_sealed(manifest: Mapping[str, Any]) -> bool:
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return bool(manifest.get(SEAL) == _seal(rest))


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def check_output(folder: Path) -> None:
    """Refuse a folder that an artifact must not replace.

    Raises:
        UsageError: It is a file, holds anything but an earlier artifact, or cannot be written.
    """
    try:
        _check_output(folder)
    except OSError as error:  # a name that is too long, a folder that must not be looked into
        raise UsageError(f"--output {folder} cannot be written: {error.strerror or error}") from error


def _check_output(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--output {folder} is not a folder; name a new folder or one that holds an earlier artifact")
    parent = _existing(folder)
    if not parent.is_dir():
        raise UsageError(f"--output {folder} lies below {parent}, which is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"--output {folder} cannot be written: no permission in {parent}")
    if folder.exists():
        foreign = _foreign(folder)
        if foreign:
            raise UsageError(
                f"--output {folder} holds other files ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); "
                "an export replaces its folder whole. Name a new folder, or move them away"
            )


def _foreign(folder: Path) -> list[str]:
    """Return what a folder holds beside an artifact of ours: files that its manifest does not vouch for."""
    found = sorted(entry.name for entry in folder.iterdir())
    try:
        described = Artifact.open(folder).manifest["files"].values()
    except OtherVersion as error:
        raise UsageError(f"--output {folder} holds another version's artifact: {error}. Remove it first") from error
    except ArtifactError:
        return found
    own = {file["name"] for file in described if _is(folder / file["name"], file["sha256"])}
    return [name for name in found if name != MANIFEST and name not in own]


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _existing(folder: Path) -> Path:
    """Return the nearest ancestor that exists: what lies below it is yet to be made."""
    parent = Path(os.path.abspath(folder)).parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; when the block ends without an error, it takes the place of ``folder``.

    The exchange is one system call where the system has one (Linux), so that at every moment ``folder`` is the old
    artifact whole or the new one whole. What an interrupted run left aside is removed by the next one.

    Raises:
        UsageError: The folder must not be replaced (see :func:`check_output`), or the system refuses to write it.
    """
    check_output(folder)
    target = Path(os.path.abspath(folder))
    prefix = f".{target.name}."
    try:
        with _parents_of(target):
            pattern = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}(\.old)?\.aside")
            for left in [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]:
                with _locked(left) as free:
                    if free:
                        _remove_own(left)
            aside = Path(tempfile.mkdtemp(prefix=prefix, suffix=".aside", dir=target.parent))
            with _locked(aside):
                try:
                    yield aside
                    aside.chmod(0o777 & ~_umask())
                    if target.exists():
                        check_output(folder)
                        _exchange(aside, target)
                    else:
                        aside.rename(target)
                finally:
                    if aside.exists():
                        _remove_own(aside)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error.strerror or error}") from error


@contextmanager
def _parents_of(folder: Path) -> Iterator[None]:
    """Make the folders above one; those made here go again if the block fails."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # it was not made, or others use it by now
                parent.rmdir()
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, or tell that another process holds it; the system lets go of a killed process's locks."""
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove_own(folder: Path) -> None:
    """Remove a folder that was written aside, unless it holds something that we did not write."""
    if all(entry.name in _OWN for entry in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders. Without the system call, the old one steps aside for the moment of two renames."""
    if sys.platform == "linux":
        try:
            rename = ctypes.CDLL(None, use_errno=True).renameat2
        except AttributeError:
            rename = None
        if rename is not None:
            here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            if rename(here, os.fsencode(new), here, os.fsencode(old), exchange) == 0:
                return
            if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    stepped = new.with_suffix(".old.aside")
    old.rename(stepped)
    new.rename(old)
    stepped.rename(new)
