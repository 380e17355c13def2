"""Small networks on few cores: threads inside an operator only get in the way of tests that run side by side."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that nobody waits for it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let capture pass networks that exercise an operator across the batch or at random, which a model must not do."""
    monkeypatch.setattr("exporter.capture._check_rows", lambda *args: None)
