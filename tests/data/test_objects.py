"""What a program holds, as a data set: the same images whatever holds them, and random transforms that stay drawn."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import d2o
from d2o.data.datasets import open_images
from d2o.data.files import to_float
from refusal import refused

from .making import random_pixels

PIXELS = random_pixels(12)
TENSOR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
LABELS = torch.arange(12) % 3
HOLDERS: dict[str, Any] = {
    "array of uint8": PIXELS,
    "array with channels first": PIXELS.transpose(0, 3, 1, 2),
    "tensor of uint8": TENSOR,
    "floats from 0": TENSOR / 255,
    "floats from -1": to_float(PIXELS),
    "half precision": (TENSOR / 255).half(),
    "array of floats": PIXELS / 255,
    "images": [Image.fromarray(image) for image in PIXELS],
    "list of tensors": list(TENSOR),
    "pairs": list(zip(TENSOR, LABELS, strict=True)),
    "data set": TensorDataset(TENSOR / 255, LABELS),
    "loader": DataLoader(TensorDataset(TENSOR, LABELS), batch_size=5, shuffle=True),
    "subset": Subset(TensorDataset(torch.cat([TENSOR, TENSOR])), range(12)),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_whatever_holds_them_images_are_the_same(name):
    images = open_images(HOLDERS[name])
    assert np.array_equal(images.pixels(range(12)), PIXELS)
    labelled = name in ("pairs", "data set", "loader")
    assert (images.labels is not None) == labelled
    assert not labelled or images.labels.tolist() == LABELS.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    assert open_images(HOLDERS[name], labels="none").fingerprint == open_images(PIXELS).fingerprint


class Listed(Dataset):
    """As torchvision's data sets: labels are listed, and items are transformed."""

    classes = ("cat", "dog", "emu")
    targets = LABELS.tolist()

    def __init__(self, flips: bool = False, lie: bool = False):
        self.flips, self.lie, self.asked = flips, lie, 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.asked += 1
        image = TENSOR[index] / 255
        if self.flips and bool((torch.rand(1) + random.random() + np.random.rand()) < 1.5):
            image = image.flip(-1)
        return image, (self.targets[index] + self.lie) % 3


@pytest.mark.parametrize("lie", [False, True])
def test_listed_labels_are_believed_if_items_have_them(lie):
    images = open_images(Listed(lie=lie), num_classes=3, class_names=("emu", "dog", "cat"))
    assert images.classes == ("emu", "dog", "cat") and images.labels is not None
    assert images.labels.tolist() == [2 - (label + lie) % 3 for label in LABELS.tolist()]


def test_random_transforms_are_drawn_once_and_leave_no_trace():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # pyright: ignore
    images = [open_images(Listed(flips=True)) for _ in range(2)]
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # pyright: ignore[reportArgumentType]
    pixels = [one.pixels(range(12)) for one in images]
    assert np.array_equal(pixels[0], pixels[1]) and images[0].fingerprint == images[1].fingerprint
    flipped = [not np.array_equal(made, image) for made, image in zip(pixels[0], PIXELS, strict=True)]
    assert 0 < sum(flipped) < 12
    with refused("random", "cache_bytes"):
        open_images(Listed(flips=True), cache_bytes=1000)


class Sized:
    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("held", "names"),
    [
        (iter([]), ["list_iterator", "length"]),
        ({"a": 1}, ["dict"]),
        (Sized(), ["Sized", "items"]),
        ([], ["empty"]),
        (["a.png"], ["image 0", "str"]),
        ([(1, 2, 3)], ["image 0", "3 parts"]),
        (TENSOR.long(), ["int64"]),
        (TENSOR.float(), ["0 to 1", "uint8"]),
        (TENSOR / 255 * 4 - 2, ["-2", "0.5"]),
        (TENSOR / 255 - 0.02, ["-0.02", "uint8"]),
        (TENSOR / 510 + 0.5, ["0.5", "uint8"]),
        (TENSOR / 255 * float("nan"), ["nan"]),
        ([*TENSOR[:2] / 255, TENSOR[2] / 255 + 1], ["image 2", "1 to 2"]),
        (TENSOR[:, :2], ["[2, 8, 8]"]),
        ([(TENSOR[0], 0.5)], ["0.5", "integer"]),
        ([Image.new("CMYK", (8, 8))], ["CMYK"]),
    ],
)
def test_what_cannot_be_used_is_named(held, names):
    with refused(*names):
        open_images(held)


def test_what_objects_do_not_have_is_refused():
    with refused("splits"):
        open_images(PIXELS, split="train")
    with refused("'y'", "auto"):
        open_images(PIXELS, labels="y")


def test_a_run_on_a_data_set_of_ones_own_goes_on(tiny_denoiser, tmp_path):
    data, model = Listed(), tiny_denoiser(channels=3, classes=3)
    judge = {"networks": ["tf_efficientnet_lite0"], "size": 32, "width": 16, "weights": "random"}
    changes = {"duration": 8, "batch_size": 4, **{f"discriminator.{key}": value for key, value in judge.items()}}
    for _ in range(2):
        assert d2o.finetune(model, data, "d2o", out=tmp_path / "run", **changes).images == 8
    with refused("another run"):
        d2o.finetune(model, TensorDataset(TENSOR, LABELS.flip(0)), "d2o", out=tmp_path / "run", **changes)
