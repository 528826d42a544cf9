"""Latent images: there and back through a tiny autoencoder, with gradients, and clear errors without one."""

import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from d2o.data.codec import Autoencoder, attach, check_pixels, open_network
from d2o.diffusion.noise import noise_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers")
    place = tmp_path_factory.mktemp("codec") / "vae"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            scaling_factor=0.3,
            shift_factor=0.7,
            sample_size=16,
        ).save_pretrained(place)
    return str(place)


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
        gradients = []
        for checkpointing in (False, True):
            x = latents().requires_grad_()
            replace(Autoencoder(folder), checkpointing=checkpointing).decode(x).square().mean().backward()
            gradients.append(x.grad)
        assert gradients[0].abs().max() > 0
        torch.testing.assert_close(*gradients)
        assert all(parameter.grad is None for parameter in open_network(folder).parameters())

    def test_half_the_precision_gives_nearly_the_same_image(self, folder):
        whole, half = Autoencoder(folder).decode(latents()), Autoencoder(folder, precision="bfloat16").decode(latents())
        assert half.dtype == torch.float32 and 0 < (whole - half).abs().max() < 0.1

    def test_copies_share_one_network(self, folder):
        codec = Autoencoder(folder)
        assert deepcopy(codec) == codec and open_network(folder) is open_network(folder)


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
        with pytest.raises(ValueError, match="does not describe an AutoencoderKL"):
            attach(latent(), tmp_path)

    def test_its_weights_are_missing(self, folder, tmp_path):
        (tmp_path / "config.json").write_bytes((Path(folder) / "config.json").read_bytes())
        with pytest.raises(ValueError, match="cannot be opened"):
            open_network(str(tmp_path))

    def test_diffusers_is_missing(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
        with pytest.raises(ValueError, match=r"pip install -e '\.\[diffusers\]'"):
            open_network.__wrapped__(folder)
