"""The augmentation moves images as its label says, and leaves alone what it does not move."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from d2o.data.augmentation import AUGMENTATION_DRAWS, Augmentation, augment
from refusal import refused

PARITY = load_file(Path(__file__).parents[1] / "fixtures/parity/augment.safetensors")
NEVER, ALWAYS = 0.999, 0.0
GATES = {"x_flip": 0, "y_flip": 1, "scale": 2, "rotation": 3, "anisotropy": 4, "translation": 5}


def draws(count: int = 2, how: tuple[float, ...] = (), **gates: bool) -> torch.Tensor:
    """Uniform numbers that choose exactly the movements named, with the values `how` (flips: below 0.5 flips)."""
    random = torch.full((count, AUGMENTATION_DRAWS), NEVER)
    for name, chosen in gates.items():
        random[:, GATES[name]] = ALWAYS if chosen else NEVER
    random[:, 6 : 6 + len(how)] = torch.tensor(how)
    return random


def normal_draw(value: float) -> float:
    """The uniform number whose normal quantile is `value`."""
    return float(torch.special.ndtr(torch.tensor(value)))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def smooth(side: int = 32) -> torch.Tensor:
    """A band-limited image on mirrored borders, as a function of pixel coordinates."""
    place = (torch.arange(side) + 0.5) / side
    return (torch.cos(math.pi * 2 * place)[:, None] * torch.cos(math.pi * 3 * place)[None, :])[None, None]


def test_flips_are_exact(images):
    for how, dims, place in (((0.0, 1.0), -1, 0), ((1.0, 0.0), -2, 1)):
        moved, label = augment(images, draws(how=how, x_flip=True, y_flip=True))
        assert torch.equal(moved, images.flip(dims))
        assert torch.equal(label, torch.eye(9)[place].expand(2, 9))


def test_nothing_drawn_is_the_same_image_with_a_zero_label(images):
    moved, label = augment(images, draws(x_flip=False))
    assert torch.equal(moved, images) and not label.any()


def test_switched_off_kinds_never_happen(images):
    off = Augmentation(1.0, False, False, False, False, False, False)
    moved, label = augment(images, torch.full((2, AUGMENTATION_DRAWS), 1e-6), off)
    assert torch.equal(moved, images) and not label.any()


@pytest.mark.parametrize(("right", "down"), [(5, 0), (0, -4), (-3, 2)])
def test_whole_translations_are_rolls_inside(images, right, down):
    how = (1, 1, 0.5, 0.5, 0.5, 0.5, normal_draw(right / 4), normal_draw(down / 4))  # 4 pixels a deviation: 32 / 8
    moved, label = augment(images, draws(how=how, translation=True))
    inside = (..., slice(14, 18), slice(14, 18))  # a mirrored border is felt, ever less, about ten pixels inside
    assert torch.allclose(moved[inside], images.roll((down, right), (-2, -1))[inside], atol=2e-3)
    assert torch.allclose(label[0], torch.tensor([0, 0, 0, 0, 0, 0, 0, right / 4, down / 4]), atol=1e-5)


@pytest.mark.parametrize(("turns", "uniform"), [(2, 1.0), (1, 0.75), (-1, 0.25)])
def test_quarter_turns_are_counter_clockwise_for_positive_angles(turns, uniform):
    images = smooth()
    moved, label = augment(images, draws(1, how=(1, 1, 0.5, uniform), rotation=True))
    inside = (..., slice(3, -3), slice(3, -3))
    assert torch.allclose(moved[inside], torch.rot90(images, turns, (-2, -1))[inside], atol=0.05)
    angle = torch.tensor(turns * math.pi / 2)
    assert torch.allclose(label[0, 3:5], torch.stack([angle.cos() - 1, angle.sin()]), atol=1e-5)


def invert(kind: str, label: torch.Tensor) -> list[torch.Tensor]:
    """The uniform numbers, from the place of `kind` on, that draw these columns of a label."""
    first, second = label[:, 0], label[:, -1]
    if kind == "flips":
        return [1 - first, 1 - second]
    if kind == "rotation":
        return [torch.atan2(second, first + 1) / math.pi / 2 + 0.5]
    if kind != "stretch":
        return [torch.special.ndtr(column) for column in label.unbind(1)]
    turned, sign = second != 0, torch.tensor([1, 1, 1, -1])  # a label leaves open whether both are the other way round
    strength = torch.where(turned, label.norm(dim=1) * sign, first)
    direction = torch.atan2(second * sign, first * sign)
    return [torch.special.ndtr(strength), torch.where(turned, direction / math.pi / 4 + 0.25, 0.9)]


@pytest.mark.parametrize(
    ("kind", "gates", "draw", "column"),
    [
        ("flips", ["x_flip", "y_flip"], 0, 0),
        ("scale", ["scale"], 2, 2),
        ("rotation", ["rotation"], 3, 3),
        ("stretch", ["anisotropy"], 4, 5),
        ("shift", ["translation"], 6, 7),
    ],
)
def test_labels_mean_what_the_reference_makes_of_them(kind, gates, draw, column):
    """A network that was trained on the reference's labels can go on to be trained here."""
    wanted = PARITY[f"{kind}.labels"].double()
    random = draws(len(wanted), (), **dict.fromkeys(gates, True)).double()
    for place, uniform in enumerate(invert(kind, wanted), draw):
        random[:, 6 + place] = uniform
    moved, label = augment(PARITY["images"], random)
    assert torch.allclose(label[:, column : column + wanted.shape[1]], wanted, atol=1e-6)
    assert torch.allclose(moved, PARITY[f"{kind}.out"], atol=2e-5)


def test_zoom_follows_its_formula():
    """Content grows by 2^(0.2 w) around the middle."""
    w, side = 1.5, 32
    factor = 2 ** (0.2 * w)
    moved, label = augment(smooth(side), draws(1, how=(1, 1, normal_draw(w)), scale=True))
    place = ((torch.arange(side) + 0.5) / side - 0.5) / factor + 0.5
    expected = torch.cos(math.pi * 2 * place)[:, None] * torch.cos(math.pi * 3 * place)[None, :]
    assert torch.allclose(moved[0, 0, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.01)
    assert torch.allclose(label[0], torch.tensor([0, 0, w, 0, 0, 0, 0, 0, 0]), atol=1e-5)


def test_anisotropy_stretches_along_its_direction_only():
    w, side = 1.0, 32
    factor = 2 ** (0.2 * w)
    moved, label = augment(smooth(side), draws(1, how=(1, 1, 0.5, 0.5, normal_draw(w), 0.5), anisotropy=True))
    place = (torch.arange(side) + 0.5) / side - 0.5
    wide, flat = place / factor + 0.5, place * factor + 0.5
    expected = torch.cos(math.pi * 2 * flat)[:, None] * torch.cos(math.pi * 3 * wide)[None, :]
    assert torch.allclose(moved[0, 0, 6:-6, 6:-6], expected[6:-6, 6:-6], atol=0.01)
    assert torch.allclose(label[0], torch.tensor([0, 0, 0, 0, 0, w, 0, 0, 0]), atol=1e-5)


def test_zooming_out_does_not_fold_high_frequencies():
    """The finest stripes, made finer still, must vanish rather than come back as broad stripes."""
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    strong = Augmentation(scale_deviation=0.8)  # one deviation: shrunk to 57 %
    moved, _ = augment(stripes.clone(), draws(1, how=(1, 1, normal_draw(-1.0)), scale=True), strong)
    assert moved[..., 12:20, 12:20].abs().max() < 0.25


def test_rows_do_not_depend_on_each_other():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(16, 1, 8, 8, generator=generator) * 2 - 1
    random = torch.rand(16, AUGMENTATION_DRAWS, generator=generator)
    moved, label = augment(images, random, Augmentation(probability=0.3))
    untouched = (label == 0).all(1)
    assert 0 < untouched.sum() < 16
    assert torch.equal(moved[untouched], images[untouched])
    for row in range(16):
        alone, alone_label = augment(images[row : row + 1], random[row : row + 1], Augmentation(probability=0.3))
        assert torch.allclose(alone[0], moved[row], atol=1e-6) and torch.equal(alone_label[0], label[row])


def test_kinds_happen_as_often_as_asked():
    random = torch.rand(20_000, AUGMENTATION_DRAWS, generator=torch.Generator().manual_seed(1))
    _, label = augment(torch.zeros(20_000, 1, 2, 2), random)
    share = (label != 0).float().mean(0)
    assert torch.allclose(share[[0, 1]], torch.tensor([0.5, 0.06]), atol=0.015)
    assert torch.allclose(share[2:], torch.tensor([0.12] * 4 + [0.06] + [0.12] * 2), atol=0.01), "half are turned"
    moved = label[label[:, 2] != 0, 2]
    assert abs(moved.std() - 1) < 0.05 and abs(moved.mean()) < 0.07


def test_extreme_uniform_numbers_stay_finite(images):
    for value in (0.0, 1.0):
        random = torch.full((2, AUGMENTATION_DRAWS), value)
        random[:, :6] = 0
        moved, label = augment(images, random)
        assert moved.isfinite().all() and label.isfinite().all()


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"probability": math.nan}, {"scale_deviation": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with refused("augmentation"):
        Augmentation(**wrong)
