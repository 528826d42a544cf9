"""The projected discriminator's sizes, gradients, state and errors."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2o.discriminators import DISCRIMINATORS, About, Projected, ProjectedDiscriminator
from d2o.discriminators.projection import Projection, Weights
from d2o.features.cache import IN_MEMORY
from refusal import refused

SMALL = Projected(size=32, width=16, weights="random")
SHAPE = (3, 8, 8)


def batch(count: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def discriminator() -> ProjectedDiscriminator:
    return SMALL.build(SHAPE)


# Expected: how often each head halves its map, and how many logits all give together.
@pytest.mark.parametrize(
    ("size", "halvings", "logits"),
    [
        (32, [2, 1, 0, 0], 4),
        (40, [2, 1, 0, 0], 4 + 4 + 4 + 1),
        (64, [3, 2, 1, 0], 4),
        (96, [3, 2, 1, 0], 4 * 9),
        (128, [4, 3, 2, 1], 4),
        (224, [4, 3, 2, 1], 4 * 16),
    ],
)
def test_sizes(size: int, halvings: list[int], logits: int) -> None:
    discriminator = replace(SMALL, size=size).build(SHAPE)
    assert [len(head.blocks) for head in discriminator.heads[0].children()] == halvings  # pyright: ignore
    assert discriminator(batch(2))[0].shape == (2, logits)


def test_full_widths_double_from_64_to_512() -> None:
    heads = Projected(size=128, width=512, weights="random").build(SHAPE).heads
    assert sum(parameter.numel() for parameter in heads.parameters()) == 10_331_328


@pytest.mark.parametrize(
    ("projection", "channels"),
    [("full", [64, 64, 128, 256]), ("channel", [64, 128, 256, 512]), ("none", [24, 40, 112, 320])],
)
def test_projections(projection: str, channels: list[int]) -> None:
    discriminator = replace(SMALL, projection=projection, size=64).build(SHAPE)
    maps = discriminator.features(batch(2))[0]
    assert [tap.shape[1] for tap in maps] == channels
    assert [tap.shape[2] for tap in maps] == ([32, 16, 8, 4] if projection == "full" else [16, 8, 4, 2])
    assert discriminator.judge([maps])[0].isfinite().all()


@pytest.mark.parametrize(
    ("weights", "gain", "shares"),
    [("kaiming", 2, (0.16, 0.28, 0.37, 0.18)), ("released", 1 / 3, (0.74, 0.21, 0.05, 0))],
)
def test_how_much_of_the_finest_map_comes_from_every_tap(
    weights: Weights, gain: float, shares: tuple[float, ...]
) -> None:
    """A tap passes as many convolutions as maps lie above it, and one more: each multiplies the variance by a gain."""
    torch.manual_seed(0)
    channels, sides, variances = (24, 40, 112, 320), (8, 4, 2, 1), (45.5, 39.4, 25.9, 6.4)  # lite0's on CIFAR-10 at 224
    found = torch.zeros(4)
    for _ in range(8):
        projection = Projection(channels, weights=weights)
        for moving in range(4):
            rows = zip(channels, sides, (v * (level == moving) for level, v in enumerate(variances)), strict=True)
            taps = [(v**0.5 * torch.randn(200, c, 1, 1)).expand(-1, -1, side, side) for c, side, v in rows]
            found[moving] += projection(taps)[0].var(0).mean() / 8
    assert (found / found.sum()).tolist() == pytest.approx(shares, abs=0.03)
    assert found.tolist() == pytest.approx([v * gain ** (2 + n) for n, v in enumerate(variances)], rel=0.15)


def test_each_network_gives_a_list_entry_and_transformers_are_reassembled() -> None:
    spec = replace(SMALL, networks=("tf_efficientnet_lite0", "deit_tiny_distilled_patch16_224"))
    discriminator = spec.build(SHAPE)
    maps = discriminator.features(batch())
    assert [tuple(tap.shape[1:]) for tap in maps[1]] == [(64, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    logits = discriminator.judge(maps)
    assert [tuple(rows.shape) for rows in logits] == [(3, 4), (3, 4)]
    discriminator.eval()
    together = discriminator(batch())
    apart = discriminator.judge(discriminator.features(batch()))
    assert all(torch.equal(*pair) for pair in zip(together, apart, strict=True))


def test_gradients_reach_images_and_heads_and_nothing_else(discriminator: ProjectedDiscriminator) -> None:
    discriminator.train().requires_grad_(True)
    images = batch().requires_grad_()
    discriminator(images)[0].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    for name, parameter in discriminator.named_parameters():
        assert parameter.requires_grad == name.startswith("heads.")
        assert (parameter.grad is not None) == name.startswith("heads."), name
    discriminator.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in discriminator.parameters())


def test_gradient_penalty_reaches_the_heads(discriminator: ProjectedDiscriminator) -> None:
    images = batch().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images)[0].sum(), images, create_graph=True)
    gradient.square().sum().backward()
    last = discriminator.heads[0][0].last  # pyright: ignore
    weight = last.parametrizations.weight.original
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().sum() > 0


def test_training_moves_neither_the_frozen_networks_nor_the_projections(discriminator: ProjectedDiscriminator) -> None:
    before = copy.deepcopy(discriminator.state_dict())
    discriminator.train()
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], lr=0.01)
    discriminator(batch())[0].sum().backward()
    optimizer.step()
    for name, tensor in discriminator.state_dict().items():
        moves = name.startswith("heads.")
        if not moves:
            assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in discriminator.state_dict().items())


def test_images_do_not_see_each_other_in_evaluation(discriminator: ProjectedDiscriminator) -> None:
    discriminator.eval()
    torch.testing.assert_close(discriminator(batch())[0][1:2], discriminator(batch()[1:2])[0], rtol=1e-4, atol=1e-4)


def test_one_spectral_norm_at_every_convolution(discriminator: ProjectedDiscriminator) -> None:
    """After power iterations every convolution of the heads has a largest singular value of one."""
    discriminator.train()
    for _ in range(100):
        discriminator(batch())
    discriminator.eval()
    convolutions = [module for module in discriminator.heads.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == sum((3, 2, 1, 1))
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=0.02)


def test_seeds_reproduce_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (SMALL.build(SHAPE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for part in ("projections.0.channel_mixing.0.weight", "heads.0.0.last.parametrizations.weight.original"):
        assert not torch.equal(first[part], other[part])


def test_the_state_round_trips_and_holds_no_frozen_network(discriminator: ProjectedDiscriminator) -> None:
    discriminator.train()
    discriminator(batch())  # moves running statistics and power-iteration vectors
    state = copy.deepcopy(discriminator.state_dict())
    assert {name.partition(".")[0] for name in state} == {"projections", "heads"}
    resumed = SMALL.build(SHAPE, seed=9)
    resumed.load_state_dict(state)
    for mode in (True, False):
        assert torch.equal(discriminator.train(mode)(batch())[0], resumed.train(mode)(batch())[0])


def test_states_of_other_discriminators_are_refused(discriminator: ProjectedDiscriminator) -> None:
    state = discriminator.state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "heads.0.1.blocks.0.1.weight"}
    for wrong in (missing, {**state, "heads.0.9.weight": torch.zeros(1)}, {}):
        with pytest.raises(RuntimeError, match="heads"):
            discriminator.load_state_dict(wrong)
    with pytest.raises(RuntimeError, match=r"heads\.0\.0"):
        replace(SMALL, width=8).build(SHAPE).load_state_dict(state)


def test_labels_matter_where_there_are_classes() -> None:
    discriminator = SMALL.build((1, 8, 8), num_classes=10).eval()
    images = batch(2, channels=1)
    zero, one = (discriminator(images, torch.full((2,), label))[0] for label in (0, 1))
    assert zero.shape == one.shape == (2, 4)
    assert not torch.allclose(zero, one)
    with refused("10", "condition"):
        discriminator(images)


def test_conditional_logits_are_scaled_dot_products() -> None:
    head = SMALL.build(SHAPE, num_classes=3).eval().heads[0][3]  # pyright: ignore
    features, label = torch.randn(2, 256, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0])
    vectors = head.classes(label)
    expected = torch.einsum("nchw,nc->nhw", head.last(features), vectors) / 8
    torch.testing.assert_close(head(features, label), expected.flatten(1))


def test_without_classes_labels_are_ignored(discriminator: ProjectedDiscriminator) -> None:
    discriminator.eval()
    assert torch.equal(discriminator(batch(), torch.zeros(3, dtype=torch.long))[0], discriminator(batch())[0])


def test_one_that_is_not_told_the_condition_is_that_of_a_model_without(discriminator: ProjectedDiscriminator) -> None:
    untold = replace(SMALL, conditional=False).build(SHAPE, num_classes=3)
    untold.load_state_dict(discriminator.state_dict())
    for condition in (None, torch.tensor([2, 0, 1])):
        assert torch.equal(untold.eval()(batch(), condition)[0], discriminator.eval()(batch())[0])


def test_the_spec_goes_through_json() -> None:
    spec = replace(SMALL, networks=("tf_efficientnet_lite0",), weights=("random:3",))
    record = json.loads(json.dumps(asdict(spec)))
    again = DISCRIMINATORS["projected"](**record)
    assert [p.network.name for p in again.build(SHAPE).pyramids] == ["tf_efficientnet_lite0"]


@pytest.mark.parametrize(
    ("changes", "shape", "names"),
    [
        ({"size": 31}, SHAPE, ("size", "31", "32")),
        ({"networks": ()}, SHAPE, ("network",)),
        ({"weights": ("random", "random")}, SHAPE, ("1", "2", "weights")),
        ({}, (4, 8, 8), ("4", "channels")),
    ],
)
def test_mistakes_are_explained(changes: dict[str, object], shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    with refused(*names):
        replace(SMALL, **changes).build(shape)  # pyright: ignore


def test_images_that_come_back_are_cached_until_the_caches_are_cleared() -> None:
    discriminator = replace(SMALL, networks=("tf_efficientnet_lite0", "resnet10t")).build(SHAPE)
    looks = []
    for pyramid in discriminator.pyramids:
        pyramid.network.register_forward_hook(lambda *_: looks.append(1))
    expected = discriminator.features(batch())
    looks.clear()
    about = About(number=[7, 8, 9])
    for found in (discriminator.features(batch(), about), discriminator.features(batch(), about)):
        for one, other in zip(found, expected, strict=True):
            assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(one, other, strict=True))
            assert not any(tensor.requires_grad for tensor in one)
    assert len(looks) == 2
    for cache in discriminator.caches:
        cache.clear()
    others = discriminator.features(-batch(), about)[0][0]
    assert not torch.allclose(others, expected[0][0], atol=1e-3)


def test_networks_share_the_memory() -> None:
    discriminator = replace(SMALL, networks=("tf_efficientnet_lite0", "resnet10t")).build(SHAPE)
    assert [cache.memory for cache in discriminator.caches] == [IN_MEMORY // 2] * 2


def test_what_does_not_fit_into_memory_is_kept_on_disk(tmp_path: Path) -> None:
    discriminator = replace(SMALL, networks=("tf_efficientnet_lite0", "resnet10t")).build(SHAPE)
    for cache in discriminator.caches:
        cache.memory = 0
        cache.use_disk(tmp_path, 10**6)
    first, again = (discriminator.features(batch(), About(number=[1, 2, 3])) for _ in range(2))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert all(len(cache.rows) == 3 for cache in discriminator.caches)
    assert list(tmp_path.iterdir()) == []
