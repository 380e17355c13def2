"""What a measurement ran on, and with which versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "onnx",
    "onnxscript",
    "captum",
    "grad-cam",
    "torchvision",
    "timm",
    "numpy",
)
FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")


@cache
def machine() -> dict[str, Any]:
    """Describe the processor and the memory."""
    info = _lines("/proc/cpuinfo")
    flags = set((info.get("flags") or info.get("Features") or "").split())
    kib = _lines("/proc/meminfo").get("MemTotal", "").split()
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(int(kib[0]) / 2**20) if kib else None,
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }


def processor(machine: Mapping[str, Any]) -> str:
    """Name a machine's processor: that of all records in one file."""
    flags = " ".join(machine["flags"])
    return f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, {flags}"


@cache
def versions() -> dict[str, str]:
    """Return the installed packages that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _lines(path: str) -> dict[str, str]:
    """Read a file of ``key: value`` lines; the first of each key counts."""
    found: dict[str, str] = {}
    try:
        text = Path(path).read_text()
    except OSError:  # not Linux
        return found
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def status_kib(keys: Iterable[str]) -> dict[str, int]:
    """Return lines of this process's ``/proc/self/status``, such as ``VmHWM``, in KiB."""
    lines = _lines("/proc/self/status")
    return {key: int(lines[key].split()[0]) for key in keys}
