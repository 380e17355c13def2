"""Which line of the user's code something comes from: ``model.py:88``, or nothing where it is none of theirs."""

from __future__ import annotations

import ast
import contextlib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path


def in_text(text: str, or_any: bool = False) -> str:
    """Return the innermost of the user's lines in a printed traceback; where none is theirs, perhaps any innermost."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', text)
    own = [frame for frame in frames if _is_users(frame[0])] or frames * or_any
    own = [frame for frame in own if not frame[0].startswith(_GENERATED)]
    return ":".join(own[-1]) if own else ""


def of_error(error: BaseException) -> str:
    """Return the innermost of the user's lines on the way to an error."""
    return _innermost(traceback.extract_tb(error.__traceback__))


def raised_by(error: BaseException) -> str:
    """Return the user's line that raised an error itself; nothing where what it called did."""
    return _innermost(traceback.extract_tb(error.__traceback__)[-1:])


def running() -> str:
    """Return the innermost of the user's lines among those that run now."""
    return _innermost(traceback.extract_stack())


def of_frame(frame: traceback.FrameSummary) -> str:
    """Return a frame's line where it is the user's."""
    return _innermost(traceback.StackSummary.from_list([frame]))


def bracketed(line: str) -> str:
    """Return `` (model.py:88)`` for a message; nothing for nothing."""
    return f" ({line})" if line else ""


def statement(line: str) -> str:
    """Return the source of the statement that a line of the user's, ``model.py:88``, is in; nothing where unknown."""
    file, _, number = line.rpartition(":")
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        source = Path(file).read_text()
        around = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.stmt) and node.lineno <= int(number) <= (node.end_lineno or 0)
        ]
        if around:
            return ast.get_source_segment(source, max(around, key=lambda node: node.lineno)) or ""
    return ""


def _innermost(frames: Iterable[traceback.FrameSummary]) -> str:
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


_GENERATED = "<eval_with_key>"
"""How torch.fx names code that it writes."""


def _is_users(file: str) -> bool:
    return "/torch/" not in file and not file.startswith(_GENERATED) and Path(__file__).parent not in Path(file).parents
