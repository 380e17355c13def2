import re

import pytest
import torch
from torch import nn

import models
from models import Entry, Preprocessing
from models.registry import IMAGENET


def test_the_zoo_is_complete():
    assert set(models.names()) == {
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")),
        *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56)),
        *("alexnet", "mobilenet_v2", "mlp", "digits_cnn"),
    }


@pytest.mark.parametrize("name", models.names())
def test_entries_are_consistent(name):
    entry = models.entry(name)
    assert entry.name == name
    assert entry.source
    assert entry.weights is None or entry.weights.is_file()
    assert len(entry.preprocessing.mean) == entry.input_shape[0]


def test_unknown_name():
    message = "no zoo model is named 'resnet19'; there are alexnet, "
    with pytest.raises(KeyError, match=re.escape(message)) as caught:
        models.entry("resnet19")
    assert caught.value.__suppress_context__


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="the zoo already has a model named 'mlp'"):
        models.register(Entry("mlp", nn.Identity, (1,), source="a test"))


def test_normalize():
    red = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    red[:, 0] = 1
    normalized = IMAGENET.normalize(red)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], dtype=torch.float64)
    torch.testing.assert_close(normalized, expected.view(3, 1, 1).expand(2, 3, 4, 5))


def test_preprocessing_checks_its_channels():
    with pytest.raises(ValueError, match=re.escape("L has 1 channel(s), but mean=(0.1, 0.2)")):
        Preprocessing(mean=(0.1, 0.2), std=(1.0,), color="L")
