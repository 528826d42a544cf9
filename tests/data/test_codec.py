"""Latent images: there and back through a tiny autoencoder, with gradients, and clear errors without one."""

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoencoders import save_autoencoder
from d2o.diffusion.noise import noise_for
from d2o.encoders.codec import Autoencoder, attach, check_pixels, open_network
from needs import package
from refusal import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_autoencoder("AutoencoderKL", tmp_path_factory.mktemp("codec") / "vae")


def latents(count=2):
    return noise_for(range(count), (4, 8, 8))


def latent(codec: Autoencoder | None = None, channels: int = 4) -> Any:
    """Return what a codec sees of a denoiser."""
    return SimpleNamespace(codec=codec, image_shape=(channels, 8, 8), replace=lambda codec: latent(codec, channels))


class TestThereAndBack:
    def test_shapes(self, folder):
        codec = Autoencoder(folder)
        images = codec.decode(latents())
        assert images.shape[1:] == codec.pixel_shape((4, 8, 8)) == (3, 16, 16)
        assert codec.encode(images).shape == latents().shape

    def test_the_scale_is_the_folders_own(self, folder):
        codec, network = Autoencoder(folder), open_network(folder)
        images = noise_for(range(2), (3, 16, 16)).clamp(-1, 1)
        mean = network.encode(images).latent_dist.mean
        torch.testing.assert_close(codec.encode(images), (mean - 0.7) * 0.3)
        torch.testing.assert_close(codec.decode((mean - 0.7) * 0.3), network.decode(mean).sample)

    def test_a_scale_for_each_channel_and_another_range(self, folder):
        scale, bias = (0.5, 1.0, 2.0, 4.0), (0.0, 1.0, 2.0, 3.0)
        codec, network = Autoencoder(folder, scale, bias, (0.0, 1.0)), open_network(folder)
        images = noise_for(range(2), (3, 16, 16)).clamp(-1, 1)
        mean = network.encode((images + 1) / 2).latent_dist.mean
        wanted = torch.stack([s * mean[:, i] + b for i, (s, b) in enumerate(zip(scale, bias, strict=True))], 1)
        torch.testing.assert_close(codec.encode(images), wanted)
        torch.testing.assert_close(codec.decode(wanted), network.decode(mean).sample * 2 - 1)

    def test_gradients_reach_the_latents_and_no_weight(self, folder):
        x = latents().requires_grad_()
        Autoencoder(folder).decode(x).square().mean().backward()
        assert x.grad is not None and x.grad.abs().max() > 0
        assert all(parameter.grad is None for parameter in open_network(folder).parameters())

    def test_half_the_precision_gives_nearly_the_same_image(self, folder):
        whole, half = Autoencoder(folder).decode(latents()), Autoencoder(folder, precision="bfloat16").decode(latents())
        assert half.dtype == torch.float32 and 0 < (whole - half).abs().max() < 0.1

    def test_copies_share_one_network(self, folder):
        codec = Autoencoder(folder)
        assert deepcopy(codec) == codec and open_network(folder) is open_network(folder)


STOCK: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[Any, Tensor], Tensor]]] = {
    "AutoencoderKL": (
        lambda vae, x: (vae.encode(x).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor,
        lambda vae, z: vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample,
    ),
    "AutoencoderDC": (
        lambda vae, x: vae.encode(x).latent * vae.config.scaling_factor,
        lambda vae, z: vae.decode(z / vae.config.scaling_factor).sample,
    ),
    "AutoencoderTiny": (lambda vae, x: vae.encode(x).latents, lambda vae, z: vae.decode(z).sample),
    "AutoencoderKLQwenImage": (
        lambda vae, x: (
            (vae.encode(x[:, :, None]).latent_dist.mode()[:, :, 0] - column(vae.config.latents_mean))
            / column(vae.config.latents_std)
        ),
        lambda vae, z: vae.decode(
            (z * column(vae.config.latents_std) + column(vae.config.latents_mean))[:, :, None]
        ).sample[:, :, 0],
    ),
}
"""How the pipelines of diffusers encode images to mean latents, and decode latents, with each kind."""


def column(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


@pytest.mark.parametrize("kind", STOCK)
class TestKinds:
    def test_it_encodes_and_decodes_as_the_stock_pipelines_do(self, kind, tmp_path):
        codec = Autoencoder(save_autoencoder(kind, tmp_path))
        vae = getattr(package("diffusers"), kind).from_pretrained(tmp_path)
        images, x = noise_for(range(2), (3, 16, 16)).clamp(-1, 1), latents()
        encode, decode = STOCK[kind]
        torch.testing.assert_close(codec.encode(images), encode(vae, images), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(codec.decode(x), decode(vae, x), rtol=1e-5, atol=1e-6)
        assert codec.pixel_shape((4, 8, 8)) == (3, 16, 16) and codec.encode(images).shape == x.shape

    def test_gradients_reach_the_latents_in_either_precision(self, kind, tmp_path):
        folder, gradients = save_autoencoder(kind, tmp_path), []
        for precision in ("float32", "bfloat16"):
            x = latents().requires_grad_()
            Autoencoder(folder, precision=precision).decode(x).square().mean().backward()
            assert x.grad is not None
            gradients.append(x.grad.flatten())
        assert torch.cosine_similarity(*gradients, dim=0) > 0.9

    def test_weights_that_are_missing_are_named(self, kind, tmp_path):
        folder = save_autoencoder(kind, tmp_path)
        file = tmp_path / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        name = min(tensors)
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
        with refused(folder, name):
            open_network(folder)


def test_a_factor_that_an_old_folder_leaves_out_is_its_class_s(folder, tmp_path):
    """Stable Diffusion's first autoencoders say nothing of 0.18215."""
    vae = package("diffusers").AutoencoderKL.from_pretrained(folder)
    vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if not k.endswith("_factor")}))
    images = noise_for(range(2), (3, 16, 16)).clamp(-1, 1)
    wanted = 0.18215 * vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(Autoencoder(str(tmp_path)).encode(images), wanted)


class TestDenoisers:
    def test_a_denoiser_with_a_codec_makes_pixels(self, folder, tiny_denoiser):
        denoiser = tiny_denoiser(channels=4)
        assert denoiser.pixel_shape == (4, 8, 8) and denoiser.decode(latents()) is not None
        names = set(denoiser.state_dict())
        denoiser = attach(denoiser, folder)
        assert denoiser.pixel_shape == (3, 16, 16) and denoiser.decode(latents()).shape == (2, 3, 16, 16)
        assert set(denoiser.state_dict()) == names
        assert deepcopy(denoiser).codec == denoiser.codec

    def test_how_latents_are_scaled_is_followed(self, folder):
        scaled = Autoencoder(None, (1.0,) * 4, (0.5,) * 4, (0.0, 1.0))
        assert torch.equal(scaled.decode(latents()), latents()) and scaled.pixel_shape((4, 8, 8)) == (4, 8, 8)
        assert attach(latent(scaled), folder).codec == replace(scaled, folder=folder)
        assert attach(latent(), folder).codec == Autoencoder(folder)

    @pytest.mark.parametrize(("codec", "channels"), [(None, 4), (Autoencoder(), 3)])
    def test_latents_cannot_be_shown_without_one(self, codec, channels):
        with pytest.raises(ValueError, match="--codec FOLDER"):
            check_pixels(latent(codec, channels))
        check_pixels(latent(None, 3))


class TestFolders:
    def test_there_is_none(self, tmp_path):
        with pytest.raises(ValueError, match=r"--codec"):
            Autoencoder(str(tmp_path / "nothing")).pixel_shape((4, 8, 8))

    @pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"_class_name": "UNet2DModel"})])
    def test_it_holds_something_else(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        with refused(str(tmp_path), "AutoencoderKL", "--codec"):
            attach(latent(), tmp_path)

    def test_its_weights_are_missing(self, folder, tmp_path):
        (tmp_path / "config.json").write_bytes((Path(folder) / "config.json").read_bytes())
        with pytest.raises(ValueError, match="cannot be opened"):
            open_network(str(tmp_path))

    def test_diffusers_is_missing(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
        with pytest.raises(ValueError, match=r"pip install -e '\.\[diffusers\]'"):
            open_network.__wrapped__(folder)
