"""The trained networks that ship with the zoo are what they say they are."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_digits

import models
from models.digits import held_out_split

SHIPPED = [name for name in models.names() if models.entry(name).weights]


def trained(name: str) -> torch.nn.Module:
    entry = models.entry(name)
    state = torch.load(entry.weights, weights_only=True, map_location="cpu")
    state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    network = entry.factory().eval()
    network.load_state_dict(state, strict=True)
    return network


def test_what_ships():
    assert SHIPPED == ["cifar_resnet20", "digits_cnn"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load_strictly(name):
    entry = models.entry(name)
    with torch.inference_mode():
        logits = trained(name)(torch.zeros(2, *entry.input_shape))
    assert logits.shape == (2, len(entry.classes))


@pytest.mark.parametrize("crop", [(0, 0, 451, 300), (75, 0, 375, 300)], ids=["squeezed", "central square"])
def test_chelsea_is_a_cat(crop):
    entry = models.entry("cifar_resnet20")
    photograph = Image.fromarray(skimage.data.chelsea()).resize((32, 32), Image.Resampling.BOX, box=crop)
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        probabilities = trained("cifar_resnet20")(entry.preprocessing.normalize(pixels)[None]).softmax(1)[0]
    assert entry.classes[int(probabilities.argmax())] == "cat"
    assert probabilities.max() > 0.5


def held_out_accuracy() -> float:
    digits = load_digits()
    _, held_out = held_out_split(len(digits.images))
    entry = models.entry("digits_cnn")
    pixels = torch.tensor(digits.images[held_out] / 16, dtype=torch.float32).unsqueeze(1)
    with torch.inference_mode():
        predicted = trained("digits_cnn")(entry.preprocessing.normalize(pixels)).argmax(1).numpy()
    return float((predicted == digits.target[held_out]).mean())


def test_digits_cnn_reads_held_out_digits():
    assert held_out_accuracy() > 0.97


def test_the_split_is_a_partition_and_the_same_everywhere():
    training, held_out = held_out_split(1797)
    assert (len(training), len(held_out)) == (1438, 359)
    assert sorted([*training, *held_out]) == list(range(1797))
    assert held_out[:5].tolist() == [455, 584, 147, 160, 1111]
