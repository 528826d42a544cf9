"""What a run holds in memory is counted on networks without numbers, as if it were counted while one computes."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.discriminators import Convolutional, OwnFeatures
from d2o.encoders.codec import Autoencoder
from d2o.objectives import Adversarial, DistributionMatching
from d2o.planning import gpu_memory
from d2o.planning.gpu_memory import GIB, USABLE, Live, Memory, fill, measure_iteration, measure_memory
from d2o.planning.text_networks import FLOW, KL, LENGTHS, Codec, Published, RandomAutoencoder, make_published
from d2o.training.loop import turns
from d2o.training.networks import networks
from d2o.training.recipes import D2O, QUERIES_MOVE

SMALL_CODEC = Codec("AutoencoderKL", {**KL, "block_out_channels": [8] * 4, "norm_num_groups": 4, "layers_per_block": 1})
SD3 = Published(
    "SD3Transformer2DModel",
    {
        "sample_size": 8,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
        "in_channels": 4,
        "out_channels": 4,
        "pos_embed_max_size": 8,
    },
    (4, 8, 8),
    FLOW,
    SMALL_CODEC,
)
RECIPE = replace(D2O, frozen=QUERIES_MOVE, discriminator=Convolutional(width=4))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten captions, and let autocast be a processor's own, with which it is compared."""
    monkeypatch.setitem(LENGTHS, "SD3Transformer2DModel", 12)
    monkeypatch.setattr(gpu_memory, "FULL", set())


@cache
def measure(**changes: Any) -> Memory:
    memory = measure_memory(replace(RECIPE, **changes), make_published(SD3))
    assert memory is not None
    return memory


LESS: dict[str, Any] = {"precision": "bfloat16", "checkpointing": True}


@pytest.mark.parametrize("changes", [{}, LESS], ids=["plain", "less"])
def test_nothing_is_held_that_a_computed_iteration_does_not_hold(changes: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **changes)
    made = networks(recipe, make_published(SD3, precision=recipe.precision))
    modules = [*made.by_name().values(), made.student.codec.network]  # type: ignore[union-attr]
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    moving = {
        turn.network: [p for p in made[turn.network].parameters() if p.requires_grad] for turn in turns(recipe, made)
    }
    one, two = (measure_iteration(recipe, made, moving, weights, count) for count in (1, 2))
    found = measure(**changes)
    for part in ("student", "decoder", "discriminator"):
        assert getattr(found, part) == pytest.approx(two[part] - one[part], rel=0.02), part
    assert found.image == pytest.approx(two["most"] - one["most"], rel=0.02)
    assert found.copies == pytest.approx(2 * one["student"] - two["student"], rel=0.02, abs=1000)


def test_weights_and_moments_are_counted_exactly() -> None:
    found, made = measure(), networks(RECIPE, make_published(SD3))
    moving = sum(p.nbytes for p in made.student.parameters() if p.requires_grad)
    heads = sum(p.nbytes for p in made.discriminator.parameters() if p.requires_grad)
    buffers = sum(buffer.nbytes for buffer in made.student.buffers())
    assert found.gradients == moving == found.weights["ema"] - buffers  # what is frozen is there once
    assert found.moments == 2 * (moving + heads)
    held = (*made.student.parameters(), *made.student.buffers())
    assert found.weights["student"] == sum(tensor.nbytes for tensor in held)


def test_a_judge_through_the_teacher_holds_what_moves_and_its_heads() -> None:
    recipe = replace(RECIPE, discriminator=OwnFeatures(width=8), objectives=(Adversarial(judged="latents"),))
    found, made = measure_memory(recipe, make_published(SD3)), networks(recipe, make_published(SD3))
    assert found is not None and found.discriminator > 0
    heads = sum(tensor.nbytes for head in made.discriminator.heads for tensor in head.state_dict().values())
    assert found.weights["discriminator"] == pytest.approx(found.weights["ema"] + heads)


@pytest.mark.parametrize("gan", [0.0, 3e-3])
def test_a_second_diffusion_network_is_held_whole_with_its_moments(gan: float) -> None:
    recipe = replace(RECIPE, objectives=(DistributionMatching(gan=gan),))
    found, made = measure_memory(recipe, make_published(SD3)), networks(recipe, make_published(SD3))
    assert found is not None
    fake = sum(p.nbytes for p in made["fake"].parameters())
    assert fake >= sum(p.nbytes for p in made.student.parameters())
    assert found.weights["fake"] >= fake == found.gradients
    moving = sum(p.nbytes for p in made.student.parameters() if p.requires_grad)
    assert found.moments == 2 * (moving + fake)
    assert (found.discriminator > found.student / 10) == (gan > 0)  # what the head's gradient needs


def test_live_bytes_are_those_of_torchs_own_allocator() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.Linear(512, 64))
    x = torch.randn(256, 64)
    profile: Any = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with profile as profiler, Live([*network.parameters(), x]) as live:
        network(x).square().mean().backward()
    events = sorted(
        (e.start_ns(), e.nbytes()) for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    now = most = 0
    for _, size in events:
        now += size
        most = max(most, now)
    assert live.most == pytest.approx(most, rel=0.02)


def test_checkpointing_and_bfloat16_keep_less() -> None:
    plain, less = measure(), measure(**LESS)
    assert less.student < plain.student / 4
    assert less.decoder == pytest.approx(plain.decoder / 2, rel=0.1)
    assert less.weights["student"] == plain.weights["student"]


def test_norms_are_computed_in_float32_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    norm, linear, x = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4), torch.ones(2, 4, dtype=torch.bfloat16)
    with gpu_memory.Gpu():
        assert norm.to(torch.bfloat16)(x).dtype == torch.bfloat16  # without autocast all is as it was
        with torch.autocast("cpu", torch.bfloat16):
            assert (norm.float()(x).dtype, linear(x).dtype) == (torch.float32, torch.bfloat16)


def test_the_autoencoder_in_a_folder_counts_and_stays_as_it_is(tmp_path: Path) -> None:
    RandomAutoencoder(SMALL_CODEC).network.save_pretrained(tmp_path / "vae")
    teacher = make_published(SD3).replace(codec=Autoencoder(str(tmp_path / "vae")))
    found = measure_memory(RECIPE, teacher)
    assert found is not None
    assert (found.decoder, found.weights["codec"]) == (measure().decoder, measure().weights["codec"])
    assert teacher.decode(torch.zeros(1, *teacher.image_shape)).isfinite().all()


class Looking(torch.nn.Module):
    """A network whose work depends on the numbers that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        return self.factor * x * x.mean().item()


def test_a_network_that_looks_at_numbers_has_no_estimate() -> None:
    recipe = replace(D2O, discriminator=Convolutional(width=4))
    assert measure_memory(recipe, Denoiser(Looking(), EDM(), (1, 8, 8))) is None


def test_as_many_images_fit_as_the_rest_of_a_gpu_holds() -> None:
    memory = Memory({"student": 2 * GIB}, GIB, GIB, 0, 1, 1, 1, fixed=4 * GIB, image=GIB // 2)
    count = memory.fitting(16)
    assert memory.total(count) <= USABLE * 16 * GIB < memory.total(count + 1)
    assert memory.fitting(4) == 0


def test_shared_tensors_stay_shared() -> None:
    with torch.device("meta"):
        layer = torch.nn.Linear(2, 2)
        pair = torch.nn.Sequential(layer, torch.nn.Linear(2, 2))
    pair[1].weight = layer.weight
    known: dict[torch.Tensor, torch.Tensor] = {}
    fill(pair, gpu_memory.FakeTensorMode(), known)
    assert pair[1].weight is pair[0].weight and len(known) == 3
