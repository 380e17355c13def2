"""How a script was called, for the page that it writes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def as_given(script: str) -> str:
    """Return a script's command line as it was given; of a path from the root, its name: where it lies is no one's."""
    return shlex.join(["python", f"scripts/{script}", *map(_short, sys.argv[1:])])


def _short(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("--") and os.path.isabs(value):
        return f"{option}={Path(value).name}"
    return Path(word).name if os.path.isabs(word) else word
