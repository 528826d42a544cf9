"""Pyramids tap the right places, let gradients through to the images, and never change."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from d2o.features import pyramid as pyramids
from d2o.features import weights
from d2o.features.pyramid import Pyramid

LITE0 = "tf_efficientnet_lite0"


def batch(count: int = 2, side: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lite0() -> Pyramid:
    return Pyramid(LITE0, 64, "package")


def strides(pyramid: Pyramid) -> tuple[int, ...]:
    return tuple(round(pyramid.size / side) for side in pyramid.sides)


def test_lite0_taps(lite0: Pyramid) -> None:
    assert lite0.channels == (24, 40, 112, 320)
    assert strides(lite0) == (4, 8, 16, 32)
    assert [tuple(tap.shape) for tap in lite0(batch())] == [
        (2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2)
    ]  # fmt: skip


def test_lite0_equals_timms_own_features(lite0: Pyramid) -> None:
    """Also proves the normalisation: at the network's size, mean and deviation 0.5 leave [-1, 1] as it is."""
    reference = timm.create_model(LITE0, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    state = weights.find_state(LITE0, "package")
    assert state is not None
    reference.load_state_dict(weights.rename_entries(state, LITE0), strict=False)
    images = batch(side=64)
    with torch.no_grad():
        for found, expected in zip(lite0(images), reference(images), strict=True):
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_vgg_is_tapped_after_the_relu_of_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    build = weights.network

    def narrow(name: str, source: str, **options: Any) -> torch.nn.Module:
        return build(name, source, mlp_ratio=0.01, **options)  # the classifier is 99 % of the work, and cut off

    monkeypatch.setattr(weights, "network", narrow)
    vgg = Pyramid("vgg16_bn", 32, "random")
    assert (vgg.channels, strides(vgg)) == ((128, 256, 512, 512), (2, 4, 8, 16))
    taps = vgg(batch())
    assert [tap.shape[-1] for tap in taps] == [16, 8, 4, 2]
    assert all((tap == 0).any() and (tap >= 0).all() for tap in taps)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen: list[Tensor] = []
    monkeypatch.setattr(vgg.network, "forward_intermediates", lambda images, **_: seen.append(images) or [])
    images = batch(side=32)
    vgg(images)
    assert torch.allclose(seen[0], ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None], atol=1e-5)


def test_deit_adds_the_mean_class_token_to_every_patch() -> None:
    """The published network's taps, on its little sister, which differs in width only."""
    deit = Pyramid("deit_tiny_distilled_patch16_224", 64, "random")
    assert deit.indices == pyramids.TAPS["deit_base_distilled_patch16_224"]
    assert deit.tokens
    assert (deit.channels, deit.sides) == ((192,) * 4, (4,) * 4)
    blocks: list[Tensor] = []
    network: Any = deit.network
    for index in (2, 5, 8, 11):
        network.blocks[index].register_forward_hook(lambda _module, _inputs, output: blocks.append(output))
    taps = deit(batch(side=64))
    for tap, tokens in zip(taps, blocks, strict=True):
        expected = tokens[:, 2:] + (tokens[:, :1] + tokens[:, 1:2]) / 2
        assert torch.allclose(tap.flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_deit_base_gives_maps_of_14_by_14() -> None:
    with torch.no_grad():
        deit = Pyramid("deit_base_distilled_patch16_224", 224, "random")
    assert (deit.channels, deit.sides, strides(deit)) == ((768,) * 4, (14,) * 4, (16,) * 4)


def test_other_networks_offer_their_last_four_levels() -> None:
    resnet = Pyramid("resnet10t", 64, "random")
    assert (resnet.channels, strides(resnet)) == ((64, 128, 256, 512), (4, 8, 16, 32))


def test_grey_is_colour_with_equal_channels(lite0: Pyramid) -> None:
    grey = batch(channels=1)
    for one, three in zip(lite0(grey), lite0(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, three)


def test_images_do_not_see_each_other(lite0: Pyramid) -> None:
    images = batch(3)
    for together, alone in zip(lite0(images), lite0(images[1:2]), strict=True):
        assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_it_is_frozen_whatever_is_asked(lite0: Pyramid) -> None:
    expected = lite0(batch())
    lite0.train().requires_grad_(True)
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert all(torch.equal(found, wanted) for found, wanted in zip(lite0(batch()), expected, strict=True))


def test_it_does_not_touch_the_images_it_is_given() -> None:
    images = batch(side=64)
    before = images.clone()
    Pyramid(LITE0, 64, "package")(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [LITE0, "deit_tiny_distilled_patch16_224"])
def test_gradients_have_gradients(name: str) -> None:
    """R1 differentiates the gradient with respect to the images once more."""
    pyramid = Pyramid(name, 32, "random")
    images = batch().requires_grad_()
    score = sum(tap.square().mean() for tap in pyramid(images))
    assert isinstance(score, Tensor)
    (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert second.isfinite().all()
    assert second.abs().sum() > 0


def test_float32_under_autocast_on_cpus(lite0: Pyramid) -> None:
    expected = lite0(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lite0(batch())
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_networks_that_are_no_pyramids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mixer_s32_224.*tf_efficientnet_lite0"):
        Pyramid("mixer_s32_224", 224, "random")


@pytest.mark.parametrize(
    ("name", "size", "sides", "width"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 64, (5,) * 4, 384),  # 70 pixels
        ("vit_small_patch14_reg4_dinov2.lvd142m", 28, (2,) * 4, 384),
        ("convnext_atto", 64, (16, 8, 4, 2), 40),
    ],
)
def test_dinov2_and_convnext_have_four_levels(name: str, size: int, sides: tuple[int, ...], width: int) -> None:
    pyramid = Pyramid(name, size, "random")
    assert (pyramid.sides, pyramid.channels[0]) == (sides, width)
    reference: list[Tensor] = []
    network: Any = pyramid.network
    levels = network.blocks if pyramid.tokens else network.stages
    for index in pyramid.indices:
        levels[index].register_forward_hook(lambda _module, _inputs, output: reference.append(output))
    for tap, given in zip(pyramid(batch()), reference, strict=True):
        if pyramid.tokens:
            first = network.num_prefix_tokens
            given = (given[:, first:] + given[:, :1]).transpose(1, 2).unflatten(2, (sides[0], -1))  # no registers
        assert torch.allclose(tap, given, atol=1e-5)


def test_a_file_of_another_size_s_weights_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2 is published for 518 pixels: the table of its patches' places is resampled."""
    name, build = "vit_small_patch14_dinov2.lvd142m", weights.network
    small: dict[str, Any] = {"depth": 4, "embed_dim": 48}
    made: Any = timm.create_model(name, img_size=70, **small)
    save_file(made.state_dict(), file := tmp_path / "dinov2.safetensors")
    monkeypatch.setattr(weights, "network", lambda name, source, **options: build(name, source, **small, **options))
    network: Any = Pyramid(name, 42, str(file)).network
    assert torch.equal(network.blocks[3].mlp.fc1.weight, made.blocks[3].mlp.fc1.weight)
    assert network.pos_embed.shape[1] == 1 + 3 * 3
