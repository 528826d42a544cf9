"""LPIPS: torchvision's VGG-16 by name and place, the distance by hand, and where its weights come from."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from d2o.diffusion.noise import noise_for
from d2o.features.perceptual import CHANNELS, LPIPS, VGG

IMAGES = noise_for(range(4), (3, 16, 16)).clamp(-1, 1)
TAPS = (3, 8, 15, 22, 29)  # the ReLU before each halving, in torchvision's numbers


@pytest.fixture(scope="module")
def vgg() -> Any:
    return VGG(None, "random")


@pytest.fixture(scope="module")
def files(vgg, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("weights")
    state = {f"features.{name}": tensor.contiguous() for name, tensor in vgg.features.state_dict().items()}
    save_file(state, folder / "vgg16.safetensors")
    rows = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(CHANNELS)}
    save_file(rows, folder / "lpips_vgg.safetensors")
    return folder, rows


def test_the_maps_are_torchvisions_with_unit_length(vgg):
    from torchvision.models.vgg import cfgs, make_layers

    reference = make_layers(cfgs["D"])
    reference.load_state_dict(vgg.features.state_dict())
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = ((IMAGES + 1) / 2 - mean[:, None, None]) / deviation[:, None, None], []
    with torch.no_grad():
        for number, layer in enumerate(reference[:30]):
            x = layer(x.clone())
            if number in TAPS:
                expected.append(x / x.norm(dim=1, keepdim=True))
        for found, wanted in zip(vgg(IMAGES), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_distance_by_hand(vgg, files):
    folder, rows = files
    measure = LPIPS(None, str(folder / "vgg16.safetensors"), str(folder / "lpips_vgg.safetensors"))
    with torch.no_grad():
        found = measure(IMAGES[:2], IMAGES[2:])
        expected = sum(
            (rows[f"lin{i}.model.1.weight"] * (one - other).square()).sum(1).mean((1, 2))
            for i, (one, other) in enumerate(zip(vgg(IMAGES[:2]), vgg(IMAGES[2:]), strict=True))
        )
        torch.testing.assert_close(found, expected)
        assert measure(IMAGES, IMAGES).abs().max() == 0


def test_gradients_reach_the_images_and_nothing_else():
    measure, images = LPIPS(32, "random"), IMAGES.clone().requires_grad_()
    measure(images, IMAGES.flip(0)).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    measure.requires_grad_(True)
    assert all(not p.requires_grad and p.grad is None for p in measure.network.parameters())


def test_weights_are_found_in_the_folder(files, monkeypatch):
    monkeypatch.setenv("D2O_WEIGHTS", str(files[0]))
    measure: Any = LPIPS(None)
    assert torch.equal(measure.linear0, files[1]["lin0.model.1.weight"].flatten())


def test_missing_weights_are_one_sentence(files, monkeypatch):
    monkeypatch.delenv("D2O_WEIGHTS", raising=False)
    vgg = str(files[0] / "vgg16.safetensors")
    with pytest.raises(ValueError, match=r"vgg16.*D2O_WEIGHTS"):
        LPIPS()
    with pytest.raises(ValueError, match=r"LPIPS.*linear='mean'"):
        LPIPS(None, vgg)
    with pytest.raises(ValueError, match=r"lpips_vgg\.safetensors.*vgg16"):
        LPIPS(None, str(files[0] / "lpips_vgg.safetensors"))
    with pytest.raises(ValueError, match=r"vgg16\.safetensors.*lin0\.model\.1\.weight"):
        LPIPS(None, vgg, vgg)
    assert dict(LPIPS(None, vgg, "mean").named_buffers())["linear4"].sum() == pytest.approx(1)


def test_images_too_small_are_named(vgg):
    with pytest.raises(ValueError, match=r"8 pixels.*32"):
        vgg(IMAGES[..., :8, :8])
