"""Tests that need torchvision and timm, which CI has in a venv of their own: ``pytest tests/hub``."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("timm") and find_spec("torchvision") else ["test_*.py"]
