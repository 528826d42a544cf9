"""guided-diffusion and improved-diffusion: every form of their network, their schedules, and what must be told."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

import d2o
from d2o.checkpoints import inspect, native
from d2o.checkpoints.readers import openai_unet
from d2o.cli.main import run
from d2o.training.fit import finetune
from d2o.training.freezing import default_rules, freeze
from refusal import refused

from .openai_reference import Kind, Reference, make_weights

TINY: dict[str, Any] = {"multipliers": (1, 2), "width": 32, "attention_dims": 1, "new_order": False}
SIZE = {"image_size": 16}
# A network, and what its weights do not show.
FORMS: dict[str, tuple[Kind, dict[str, Any]]] = {
    "learned sigma, classes": (Kind(**TINY, outputs=6, head_channels=16), {"num_head_channels": 16}),
    "noise alone": (Kind(**TINY, classes=0, heads=4), {}),
    "new order": (
        Kind(**{**TINY, "new_order": True}, outputs=6, heads=2),
        {"num_heads": 2, "use_new_attention_order": True, "num_heads_upsample": 2},
    ),
    "by convolutions": (Kind(**TINY, by_convolution=True, scales=False, count=2, heads=1), {"num_heads": 1}),
    "one level": (Kind(**{**TINY, "multipliers": (1,)}, attends=0, heads=4), {"resblock_updown": True}),
    "half the width at first": (Kind(**{**TINY, "multipliers": (0.5, 1, 2), "width": 64}, attends=2, heads=4), {}),
}
pytestmark = pytest.mark.filterwarnings("ignore:The weights in")


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.save(make_weights(Kind(**TINY)), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_their_network_does(tmp_path, form, suffix):
    (kind, told), path = FORMS[form], tmp_path / f"model{suffix}"
    state = make_weights(kind)
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(state, path)
    (tmp_path / "config.json").write_text(json.dumps(SIZE | told))
    given = {"family": "epsilon", "config": tmp_path / "config.json"}
    denoiser = d2o.load(path, **given)
    assert "state dict" in inspect(path, **given).kind
    assert denoiser.image_shape == (3, 16, 16) and denoiser.num_classes == kind.classes and not denoiser.one_step
    x, time = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])
    label = torch.tensor([2, 0]) if kind.classes else None
    wanted = Reference(kind, state)(x, time, label)[:, :3]
    torch.testing.assert_close(denoiser.backbone(x, time, label), wanted, rtol=1e-4, atol=2e-5)
    level = denoiser.preconditioning.levels[700].item()  # type: ignore[attr-defined]
    found = denoiser((1 + level**2) ** 0.5 * x, level, label)
    wanted = (1 + level**2) ** 0.5 * x - level * Reference(kind, state)(x, torch.tensor([700.0, 700.0]), label)[:, :3]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * level)


@torch.no_grad()
@pytest.mark.skipif("D2O_PARITY" not in os.environ, reason="D2O_PARITY names no folder with the full parity files")
def test_it_computes_what_their_code_wrote(tmp_path):
    file = Path(os.environ["D2O_PARITY"]) / "guided_diffusion.safetensors"
    tensors = safetensors.torch.load_file(file)
    with safe_open(file, "pt") as opened:
        configs = opened.metadata()
    assert len(configs) == 4
    for name, config in configs.items():
        prefix = f"{name}.weights."
        torch.save({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, tmp_path / "x.pt")
        network = d2o.load(tmp_path / "x.pt", config=json.loads(config)).backbone
        x, time, label, wanted = (tensors.get(f"{name}.{part}") for part in ("x", "t", "y", "out"))
        assert x is not None and time is not None and wanted is not None
        assert float((network(x, time.float(), label) - wanted[:, :3]).abs().max() / wanted.std()) < 1e-5


def remaining(schedule: str, steps: int, time: int) -> float:
    """Return what is left of the signal's variance after `time` steps, by the papers' formulas."""
    if schedule == "cosine":
        return (math.cos((time / steps + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    start, end = 0.1 / steps, 20 / steps
    return math.prod(1 - (start + (end - start) * i / (steps - 1)) for i in range(time))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("steps", "rescale"), [(1000, None), (1000, True), (4000, True), (4000, False), (250, True)])
def test_the_noise_is_their_schedule_s(weights, schedule, steps, rescale):
    config = SIZE | {"noise_schedule": schedule, "diffusion_steps": steps, "rescale_timesteps": rescale}
    family = d2o.load(weights, config=config).preconditioning
    for part in (0.1, 0.3, 0.7):
        left = remaining(schedule, steps, int(part * steps) + 1)
        sigma = torch.tensor(((1 - left) / left) ** 0.5, dtype=torch.float64)
        time = int(part * steps) * (1000 / steps if rescale else 1)
        assert family(sigma).noise.item() == pytest.approx(time)
    assert family.sigma_max <= 80


class TestAssumptions:
    def test_what_the_released_models_have(self):
        for name, kind, assumed in (
            ("64.pt", Kind(width=192, outputs=6), {"num_head_channels": 64, "use_new_attention_order": True}),
            ("128.pt", Kind((1, 1, 2, 3, 4), width=256, outputs=6), {"num_heads": 4, "noise_schedule": "linear"}),
            ("256.pt", Kind((1, 1, 2, 2, 4, 4), width=256, outputs=6), {"num_head_channels": 64, "image_size": 256}),
            ("512.pt", Kind((0.5, 1, 1, 2, 2, 4, 4), width=256, outputs=6), {"image_size": 512}),
            ("32.pt", Kind((1, 2, 2, 2), by_convolution=True, outputs=6), {"noise_schedule": "cosine"}),
        ):
            with torch.device("meta"):
                state = make_weights(kind)
            spec, _ = openai_unet.describe(state, name)
            found = spec["provenance"]["assumed"]
            assert assumed.items() <= found.items() and "family" not in found, name
            assert f"{spec['image_shape'][1]}.pt" == name

    def test_they_are_said(self, weights, capsys):
        with pytest.warns(UserWarning, match=r"model\.pt.*noise_schedule.*--config"):
            d2o.load(weights, config=SIZE)
        record = inspect(weights, config=SIZE).as_dict()
        assert record["family"] == record["assumed"]["family"] == "epsilon" and record["assumed"]["num_heads"] == 4
        assert "image_size" not in record["assumed"] and "assumed" not in record["provenance"]
        path = weights.with_name("config.json")
        path.write_text("\ufeff" + json.dumps(SIZE | {"num_heads": 2, "noise_schedule": "linear"}), encoding="utf-8")
        assert run(["inspect", str(weights), "--config", str(path), "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert not {"num_heads", "noise_schedule"} & record["assumed"].keys() and record["d2o_f"]["share"] > 0.5

    def test_a_config_means_its_own_defaults(self, weights):
        """The constructor's is one attention head, that of the scripts four."""
        for config, heads in (({"model_channels": 32}, 1), ({"num_channels": 32}, 4), ({"num_head_channels": -1}, 4)):
            assert d2o.load(weights, config=SIZE | config).backbone.config["num_heads"] == heads  # type: ignore[index, union-attr]

    def test_it_needs_a_size(self, weights, capsys):
        with refused("model.pt", "image_size", "--config"):
            d2o.load(weights)
        out = weights.with_name("out.safetensors")
        assert run(["convert", str(weights), str(out)]) == 2 and not out.exists()
        (weights.parent / "c.json").write_text(json.dumps(SIZE))
        assert run(["convert", str(weights), str(out), "--config", str(weights.parent / "c.json")]) == 0
        assert inspect(out).as_dict()["assumed"]["num_heads"] == 4
        with refused("out.safetensors", "config"):
            d2o.load(out, config=SIZE)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"num_head": 4}, ["num_head", "num_heads"]),
        ({"model_channels": 64}, ["model_channels", "32", "64"]),
        ({"learn_sigma": True}, ["learn_sigma"]),
        ({"resblock_updown": False}, ["resblock_updown"]),
        ({"num_classes": 1000}, ["num_classes", "3"]),
        ({"num_heads": 5}, ["5", "heads"]),
        ({"num_heads": 0}, ["num_heads"]),
        ({"num_heads": True}, ["num_heads"]),
        ({"num_heads": 2, "num_heads_upsample": 4}, ["num_heads_upsample"]),
        ({"num_head_channels": 5000}, ["head_channels"]),
        ({"image_size": 15}, ["15"]),
        ({"image_size": 10**9}, ["resolution"]),
        ({"noise_schedule": "sqrt"}, ["noise_schedule", "linear", "cosine"]),
        ({"diffusion_steps": 4000}, ["rescale_timesteps"]),
        ({"diffusion_steps": 0}, ["diffusion_steps"]),
        ({"diffusion_steps": 10**9, "rescale_timesteps": True}, ["steps"]),
    ],
)
def test_wrong_arguments_are_named(weights, wrong, names):
    with refused(str(weights), *names):
        d2o.load(weights, config=SIZE | wrong)


@torch.no_grad()
@pytest.mark.parametrize("told", [{"config": {**SIZE, "predict_xstart": True}}, {"config": SIZE, "family": "sample"}])
def test_a_network_that_predicts_the_image_gives_it_as_it_is(weights, told):
    denoiser = d2o.load(weights, **told)
    x, label, level = torch.randn(1, 3, 16, 16), torch.tensor([1]), denoiser.preconditioning.levels[400].item()  # type: ignore[attr-defined]
    wanted = denoiser.backbone(x, torch.tensor([400.0]), label)
    torch.testing.assert_close(denoiser((1 + level**2) ** 0.5 * x, level, label), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, "", "\x00"])
def test_a_config_that_is_none(weights, text):
    path = weights.with_name("config.json")
    path.write_text(text)
    with refused("config.json", "JSON"):
        inspect(weights, config=path)
    with refused("nowhere.json"):
        d2o.load(weights, config=weights.with_name("nowhere.json"))
    with refused("digits-small", "config"):
        d2o.load("digits-small", config=SIZE)


@torch.no_grad()
@pytest.mark.parametrize("width", [16, 24])
def test_narrow_networks_need_the_groups_of_their_norms(tmp_path, width):
    """Norms of 32 groups take multiples of 32 channels; what has others is no network of theirs, but a descendant."""
    path, state = tmp_path / "narrow.pt", make_weights(kind := Kind(**TINY | {"width": width}, groups=8, heads=4))
    torch.save(state, path)
    with refused("narrow.pt", str(width), "num_groups", "--config"):
        d2o.load(path, config=SIZE)
    network = d2o.load(path, config=SIZE | {"num_groups": 8}).backbone
    x, time, label = torch.randn(1, 3, 16, 16), torch.tensor([30.0]), torch.tensor([1])
    torch.testing.assert_close(network(x, time, label), Reference(kind, state)(x, time, label), rtol=1e-4, atol=2e-5)
    with refused("narrow.pt", "groups"):
        d2o.load(path, config=SIZE | {"num_groups": 7})


@torch.no_grad()
def test_it_may_predict_a_flow(tmp_path):
    """Its time runs from noise to image, as torchcfm trains it; one Euler step from noise is noise + velocity."""
    path, kind = tmp_path / "flow.pt", FORMS["noise alone"][0]
    torch.save(make_weights(kind), path)
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 1000.0):
        denoiser = d2o.load(path, family="sit", config=SIZE | ({"time_scale": scale} if scale > 1 else {}))
        wanted = noise + Reference(kind, make_weights(kind))(noise, torch.zeros(2), None)
        found = denoiser(denoiser.sigma_max * noise, denoiser.sigma_max)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
        half = denoiser.preconditioning(torch.tensor(1.0)).noise.item()
        assert half == scale / 2 and ("time_scale" in denoiser.provenance["assumed"]) is (scale == 1)
    with refused("flow.pt", "time_scale", "epsilon"):
        d2o.load(path, config=SIZE | {"time_scale": 1.0})


def test_upsamplers_are_refused(tmp_path):
    state = make_weights(Kind(**TINY, outputs=6)) | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}
    torch.save(state, tmp_path / "64_256_upsampler.pt")
    with refused("64_256_upsampler.pt", "6 input"):
        d2o.load(tmp_path / "64_256_upsampler.pt", config=SIZE)


@pytest.mark.parametrize("form", ["learned sigma, classes", "by convolutions", "half the width at first"])
def test_it_comes_back_from_our_own_file_and_becomes_a_one_step_student(tmp_path, form):
    kind, told = FORMS[form]
    torch.save(make_weights(kind), tmp_path / "model.pt")
    teacher = d2o.load(tmp_path / "model.pt", config=SIZE | told)
    d2o.save(tmp_path / "own.safetensors", teacher)
    again = d2o.load(tmp_path / "own.safetensors")
    assert native.describe(again) == native.describe(teacher)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(80 * x, 80.0), teacher(80 * x, 80.0), rtol=1e-4, atol=1e-3)
    share = freeze(again, default_rules(again))
    assert 0.4 < share.frozen / share.total < 0.95
    judge: Any = {"discriminator.weights": "random", "discriminator.size": 32, "discriminator.width": 16}
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(8) % kind.classes)
    run_settings = {"out": tmp_path / "run", "duration": 8, "batch_size": 4, **judge}
    made = finetune(tmp_path / "own.safetensors", tmp_path / "data.npz", "d2o-f", **run_settings)
    before, after = teacher.state_dict(), made.denoiser.state_dict()
    assert made.denoiser.one_step and made.share == share
    roles = {name: teacher.backbone.role(name.removeprefix("backbone.")) for name, _ in teacher.named_parameters()}  # type: ignore[operator, union-attr]
    for name, role in roles.items():
        if role in ("convolution", "projection"):
            assert torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in roles)


def test_bfloat16_does_not_round_the_last_layer(weights):
    """A noise predictor's error is multiplied by sigma: the prediction stays float32."""
    denoiser = d2o.load(weights, config=SIZE).replace(precision=torch.bfloat16)
    seen: list[Tensor] = []
    denoiser.backbone.out_conv.register_forward_hook(lambda _, given, made: seen.extend([*given, made]))  # type: ignore[operator, union-attr]
    with torch.no_grad():
        denoiser(torch.zeros(1, 3, 16, 16), 1.0, torch.tensor([0]))
    assert {tensor.dtype for tensor in seen} == {torch.float32}
