"""Fine-tuning of what is no EDM U-Net: epsilon models, transformers, and latents that are judged in pixels."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import d2o
from d2o import backbones
from d2o.cli.main import run
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Boundary, Epsilon, Velocity
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate
from d2o.encoders.codec import attach
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.denoising import Denoising
from d2o.training.freezing import (
    BIASES_MOVE,
    CONVOLUTIONS,
    MODULATION_MOVES,
    QUERIES_MOVE,
    count_frozen,
    default_rules,
    freeze,
)
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipes import RECIPES
from refusal import refused

from .tiny import ADVERSARIAL, BATCH, parameters_of, stream

PRESETS = {"queries": QUERIES_MOVE, "modulation": MODULATION_MOVES, "biases": BIASES_MOVE}


def transformer(channels: int = 1, side: int = 8, num_classes: int = 2, **config: Any) -> Denoiser:
    """Return a tiny DiT that predicts noise."""
    spec = {"kind": "dit", "resolution": side, "in_channels": channels, "out_channels": channels, "channels": 16}
    spec |= {"num_classes": num_classes, "num_blocks": 2, "num_heads": 2, **config}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = backbones.build(spec)
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Denoiser(network, Epsilon(), (channels, side, side), num_classes).eval()


def published(num_blocks: int = 28, channels: int = 1152, num_heads: int = 16, **config: Any) -> Denoiser:
    """Return DiT-XL/2 without memory."""
    sizes = {"resolution": 32, "in_channels": 4, "out_channels": 4, "num_classes": 1000}
    with torch.device("meta"):
        network = backbones.build(
            {"kind": "dit", **sizes, "num_blocks": num_blocks, "channels": channels, "num_heads": num_heads, **config}
        )
    return Denoiser(network, Epsilon(), (4, 32, 32), 1000)


class TestFreezing:
    @pytest.mark.parametrize(("preset", "percent"), [("queries", 82.60), ("modulation", 66.08), ("biases", 99.12)])
    def test_shares_of_the_published_transformer(self, preset, percent):
        found = freeze(published(), PRESETS[preset])
        assert found.total == 674_816_272 and round(100 * found.frozen / found.total, 2) == percent

    def test_embedders_of_every_block_train(self):
        found = freeze(published(embedders="per block"), QUERIES_MOVE)
        assert round(100 * found.frozen / found.total, 2) == 74.34

    @pytest.mark.parametrize("preset", PRESETS)
    def test_a_preset_moves_exactly_what_it_should(self, preset):
        teacher = transformer()
        recipe = replace(ADVERSARIAL, frozen=PRESETS[preset], duration=2 * BATCH)
        made = networks(recipe, teacher)
        before = parameters_of(made.student)
        assert count_frozen(made.student).frozen > 0
        list(train(recipe, made, stream()))
        role: Any = made.student.backbone.role
        for name, parameter in made.student.named_parameters():
            frozen = role(name.removeprefix("backbone.")) in recipe.frozen
            assert torch.equal(parameter, before[name]) == frozen, name

    def test_the_usual_recipe_points_to_the_one_for_transformers(self):
        with refused("'convolution'", "dit-d2o-f"):
            freeze(transformer(), CONVOLUTIONS)

    def test_every_kind_has_its_own_rule(self, tiny_denoiser):
        assert default_rules(tiny_denoiser()) == CONVOLUTIONS and default_rules(transformer()) == QUERIES_MOVE
        for name in ("dit-d2o-f", "dit-d2o-f-modulation", "dit-d2o-f-biases"):
            assert freeze(transformer(), RECIPES[name].frozen).frozen > 0
        assert RECIPES["dit-d2o-f"].frozen == QUERIES_MOVE and not RECIPES["dit-d2o"].frozen


class TestTheStart:
    @pytest.mark.parametrize("given", [Epsilon(), Velocity(), Boundary(), EDM()])
    def test_the_student_remembers_where_it_starts(self, tiny_denoiser, given):
        teacher = tiny_denoiser()
        teacher.preconditioning = given
        recipe = replace(ADVERSARIAL, objectives=(Adversarial(sigma=5.0),))
        made = networks(recipe, teacher)
        assert made.student.sigma_max == made.ema.sigma_max == 5.0 and teacher.sigma_max == 80.0
        kind = Boundary if isinstance(given, EDM) else type(given)
        assert type(made.student.preconditioning) is kind

    def test_a_model_that_knows_less_noise_starts_at_its_own(self, tiny_denoiser):
        teacher = tiny_denoiser()
        teacher.preconditioning = Epsilon("scaled_linear", 0.00085, 0.012)
        assert networks(ADVERSARIAL, teacher).student.sigma_max == pytest.approx(14.61, abs=0.01)

    def test_pretraining_leaves_it(self, tiny_denoiser):
        teacher = tiny_denoiser()
        teacher.preconditioning = Epsilon(sigma_max=3.0)
        made = networks(replace(ADVERSARIAL, objectives=(Denoising(),)), teacher)
        assert made.student.preconditioning == teacher.preconditioning

    def test_training_and_sampling_make_the_same_image(self, tiny_denoiser, tmp_path):
        teacher = tiny_denoiser()
        teacher.preconditioning = Epsilon()
        recipe = replace(ADVERSARIAL, objectives=(Adversarial(sigma=5.0),), duration=2 * BATCH)
        *_, progress = train(recipe, networks(recipe, teacher), stream(classes=0))
        assert all(np.isfinite(value) for value in progress.losses.values())
        d2o.save(tmp_path / "student.safetensors", progress.ema)
        again = d2o.load(tmp_path / "student.safetensors")
        (image,) = generate(again, [7])
        torch.testing.assert_close(image, progress.ema.eval()(5 * noise_for([7], (1, 8, 8)), 5.0))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Return the folder of a tiny latent DiT with its autoencoder, as diffusers writes it."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("pipeline") / "dit"
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = diffusers.DiTTransformer2DModel(**sizes, out_channels=8, num_embeds_ada_norm=2)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        codec = diffusers.AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, **blocks)
    names = {"transformer": network, "vae": codec, "scheduler": diffusers.DDIMScheduler()}
    for name, part in names.items():
        part.save_pretrained(folder / name)
    index = {name: ["diffusers", type(part).__name__] for name, part in names.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", **index}))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    levels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(file, images=levels, labels=np.arange(40) % 2)
    return file


def test_a_u_net_of_diffusers_becomes_a_one_step_generator(tmp_path, tiny_data, capsys):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    network = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks
    )
    network.save_pretrained(tmp_path / "ddpm" / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "ddpm" / "scheduler")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "ddpm" / "model_index.json").write_text(json.dumps(index))
    words = [
        "finetune",
        "--from",
        tmp_path / "ddpm",
        "--data",
        tiny_data,
        "--recipe",
        "d2o-f",
        "--out",
        tmp_path / "run",
    ]
    words += ["--images", 8, "--batch", 4, "--set", "discriminator.weights=random", "--set", "objectives.0.sigma=20"]
    words += ["--set", "discriminator.size=32", "--set", "discriminator.width=16"]
    assert run([str(word) for word in words]) == 0, capsys.readouterr().err
    student = d2o.load(tmp_path / "run")
    assert isinstance(student.preconditioning, Epsilon) and student.sigma_max == 20
    (image,) = generate(student, [3])
    torch.testing.assert_close(image, student(20 * noise_for([3], (1, 8, 8)), 20.0), rtol=0, atol=1e-4)


class TestLatents:
    def test_students_are_judged_in_pixels_with_gradients(self, pipeline):
        teacher = transformer(channels=4)
        teacher = attach(teacher, pipeline / "vae")
        recipe = replace(ADVERSARIAL, frozen=QUERIES_MOVE, duration=2 * BATCH)
        made = networks(recipe, teacher)
        batches = ((noise_for(i.tolist(), (3, 16, 16)), i % 2, i) for i in torch.arange(1000).split(BATCH))
        before = parameters_of(made.student)
        *_, progress = train(recipe, made, batches)
        moved = {name for name, p in made.student.named_parameters() if not torch.equal(p, before[name])}
        assert "backbone.blocks.0.attn.qkv.weight" in moved
        (image,) = generate(progress.ema, [0])
        assert image.shape == (1, 3, 16, 16)

    def test_denoising_works_on_latents(self, pipeline):
        teacher = transformer(channels=4)
        teacher = attach(teacher, pipeline / "vae")
        recipe = replace(ADVERSARIAL, objectives=(Denoising(),), duration=BATCH)
        batches = ((noise_for(i.tolist(), (3, 16, 16)), i % 2, i) for i in torch.arange(1000).split(BATCH))
        (progress,) = train(recipe, networks(recipe, teacher), batches)
        assert np.isfinite(progress.losses["student"])

    def test_one_command_after_another(self, pipeline, pictures, tmp_path, capsys):
        out = tmp_path / "student"
        words = ["finetune", "--from", pipeline, "--data", pictures, "--recipe", "dit-d2o-f", "--out", out]
        words += ["--images", 8, "--batch", 4, "--micro-batch", 2, "--precision", "float32"]
        for setting in ("networks=[tf_efficientnet_lite0]", "weights=random", "size=32", "width=16"):
            words += ["--set", f"discriminator.{setting}"]
        assert run([str(word) for word in words]) == 0, capsys.readouterr().err
        assert "frozen" in capsys.readouterr().err
        student = d2o.load(out)
        assert student.pixel_shape == (3, 16, 16) and student.image_shape == (4, 8, 8)
        sample = ["sample", str(out), "--seeds", "0-3", "--out", str(tmp_path / "images.npz")]
        assert run(sample) == 0
        assert "blurred" not in capsys.readouterr().err
        assert np.load(tmp_path / "images.npz")["images"].shape == (4, 16, 16, 3)
        measure = ["evaluate", str(out), str(pictures), "--images", "10", "--features", "pixels"]
        assert run(measure) == 0

    def test_a_latent_model_without_a_codec_asks_for_it(self, pictures, pipeline, tmp_path, capsys):
        d2o.save(tmp_path / "dit.safetensors", transformer(channels=4))
        model = str(tmp_path / "dit.safetensors")
        assert run(["sample", model, "--out", str(tmp_path / "x.png")]) == 2
        assert "--codec FOLDER" in capsys.readouterr().err
        words = ["sample", model, "--out", str(tmp_path / "x.png"), "--seeds", "0-1", "--codec", str(pipeline / "vae")]
        assert run(words) == 0
        words = ["finetune", "--from", model, "--data", str(pictures), "--out", str(tmp_path / "run")]
        assert run(words) == 2
        assert "--codec FOLDER" in capsys.readouterr().err
