"""Small networks on few cores: threads inside an operator only get in the way of tests that run side by side."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let capture pass networks that exercise an operator across the batch or at random, which a model must not do."""
    monkeypatch.setattr("exporter.capture._check_rows", lambda *args: None)
