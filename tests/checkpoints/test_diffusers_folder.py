"""Folders of diffusers: the same denoiser as diffusers' own classes make, and nothing but JSON and tensors read."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import d2o
from d2o.checkpoints import CheckpointError
from d2o.checkpoints.readers import diffusers_folder
from d2o.diffusion.families import Boundary, Epsilon, Sample, Velocity
from d2o.errors import MalformedCheckpointError, MismatchError, UnsafeCheckpointError, UnsupportedCheckpointError
from d2o.training.freezing import CONVOLUTIONS, freeze

diffusers: Any = pytest.importorskip("diffusers")

SMALL = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_unet(**settings) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**{**SMALL, **settings}).eval()


def write(path: Path, scheduler: Any = None, **settings) -> Path:
    """Save a tiny DDPM pipeline, the way diffusers does."""
    diffusers.DDPMPipeline(make_unet(**settings), scheduler or diffusers.DDPMScheduler()).save_pretrained(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "ddpm")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def given(shape=(3, 8, 8)) -> tuple[Tensor, Tensor]:
    """Return images of the scheduler, and times."""
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 400, 930, 999])


SCHEDULES = {
    "linear": {},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "betas": {"trained_betas": torch.linspace(1e-4, 0.03, 1000).tolist()},
    "velocity": {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    "image": {"prediction_type": "sample"},
}


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_it_denoises_as_the_scheduler_does(tmp_path, config):
    scheduler = diffusers.DDPMScheduler(**config, clip_sample=False)
    folder = write(tmp_path / "model", scheduler)
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    denoiser = d2o.load(folder)
    family = {"v_prediction": Velocity, "sample": Sample}.get(str(config.get("prediction_type")), Epsilon)
    assert isinstance(denoiser.preconditioning, family)
    assert all(torch.equal(p, q) for p, q in zip(unet.parameters(), denoiser.backbone.parameters(), strict=True))
    x, times = given()
    signal = scheduler.alphas_cumprod[times].double()
    sigma = ((1 - signal) / signal).sqrt()
    with torch.no_grad():
        predicted = unet(x, times).sample
        made = denoiser((x.double() / signal.sqrt()[:, None, None, None]).float(), sigma.float())
    for index, time in enumerate(times):
        clean = scheduler.step(predicted[index], int(time), x[index]).pred_original_sample
        scale = 1 + float(sigma[index]) * x[index].abs().max()
        assert (made[index] - clean).abs().max() < 1e-4 * scale


def test_classes_are_passed_on(tmp_path):
    denoiser = d2o.load(write(tmp_path / "model", num_class_embeds=4))
    assert denoiser.num_classes == 4
    unet = make_unet(num_class_embeds=4)
    x, label = given()[0], torch.tensor([0, 1, 2, 3, 3])
    with torch.no_grad():
        made = denoiser.backbone(x, torch.full((5,), 7.0), label)
        assert torch.equal(made, unet(x, torch.full((5,), 7.0), label).sample)


def test_a_loaded_folder_is_saved_and_frozen_like_any_denoiser(tmp_path, folder):
    denoiser = d2o.load(folder)
    assert denoiser.provenance["class"] == "UNet2DModel" and denoiser.provenance["scheduler"] == "DDPMScheduler"
    assert set(denoiser.provenance["sha256"]) == {WEIGHTS}
    d2o.save(tmp_path / "model.safetensors", denoiser)
    again = d2o.load(tmp_path / "model.safetensors")
    assert again.preconditioning == denoiser.preconditioning
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in denoiser.state_dict().items())
    assert 0 < freeze(again, CONVOLUTIONS).frozen < freeze(again, CONVOLUTIONS).total


def test_without_tensors_it_is_described(folder):
    ghost = diffusers_folder.load(folder, meta=True)
    assert {tensor.device.type for tensor in ghost.state_dict().values()} == {"meta"}
    assert {n: t.shape for n, t in ghost.state_dict().items()} == {
        n: t.shape for n, t in d2o.load(folder).state_dict().items()
    }


def test_a_network_alone_takes_the_scheduler_beside_it_or_ddpms(folder, tmp_path):
    change(folder / "scheduler" / "scheduler_config.json", beta_end=0.03)
    beside = d2o.load(folder / "unet")
    assert isinstance(beside.preconditioning, Epsilon) and beside.preconditioning.beta_end == 0.03
    (folder / "unet").rename(tmp_path / "alone")
    with pytest.warns(UserWarning, match="linear schedule"):
        assert d2o.load(tmp_path / "alone").preconditioning == Epsilon()


def test_the_oldest_folders_have_one_level_and_other_names(folder, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        (folder / name).rename(old / Path(name).name)
    change(old / "config.json", down_block_types=["UNetResDownBlock2D", "UNetResAttnDownBlock2D"])
    state = load_file(folder / "unet" / WEIGHTS)
    for present, past in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), ("to_out.0", "proj_attn")):
        state = {name.replace(present, past): tensor for name, tensor in state.items()}
    torch.save(state, old / "diffusion_pytorch_model.bin")
    denoiser = d2o.load(old)
    wanted = make_unet().state_dict()
    assert all(torch.equal(wanted[name.removeprefix("unet.")], t) for name, t in denoiser.backbone.state_dict().items())


def test_several_files_with_an_index_are_put_together(folder):
    split(folder / "unet")
    wanted = make_unet().state_dict()
    made = d2o.load(folder).backbone.state_dict()
    assert all(torch.equal(wanted[name.removeprefix("unet.")], tensor) for name, tensor in made.items())


def split(unet: Path, **renamed: str) -> None:
    """Replace the weights by two files and their index, which calls the files otherwise as told."""
    state = load_file(unet / WEIGHTS)
    (unet / WEIGHTS).unlink()
    names, places = list(state), {}
    for part, some in (("first", names[::2]), ("second", names[1::2])):
        save_file({name: state[name] for name in some}, unet / f"{part}.safetensors")
        places |= dict.fromkeys(some, renamed.get(part, f"{part}.safetensors"))
    (unet / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))


def test_a_learned_sigma_is_dropped(tmp_path):
    denoiser = d2o.load(write(tmp_path / "model", out_channels=6))
    assert denoiser.image_shape == (3, 8, 8)
    x = given()[0]
    with torch.no_grad():
        whole = make_unet(out_channels=6)(x, torch.full((5,), 7.0)).sample
        torch.testing.assert_close(denoiser.backbone(x, torch.full((5,), 7.0)), whole[:, :3])


def test_a_consistency_model_is_told_its_own_time(tmp_path):
    scheduler = diffusers.CMStochasticIterativeScheduler()
    diffusers.ConsistencyModelPipeline(make_unet(), scheduler).save_pretrained(tmp_path / "model")
    denoiser = d2o.load(tmp_path / "model")
    assert denoiser.preconditioning == Boundary(time_scale=250.0) and denoiser.one_step


def test_a_transformer_becomes_a_latent_denoiser(tmp_path):
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    network = diffusers.DiTTransformer2DModel(**sizes, out_channels=8, num_embeds_ada_norm=5, norm_eps=1e-5).eval()
    network.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer": ["diffusers", "DiTTransformer2DModel"]}))
    denoiser = d2o.load(tmp_path)
    x, times = given((4, 8, 8))
    label = torch.tensor([0, 1, 2, 3, 4])
    with torch.no_grad():
        wanted = network(x, times, label).sample[:, :4]
        torch.testing.assert_close(denoiser.backbone(x, times.float(), label), wanted, rtol=1e-4, atol=1e-5)
    assert denoiser.image_shape == (4, 8, 8) and denoiser.num_classes == 5
    ghost = diffusers_folder.load(tmp_path, meta=True)
    assert ghost.num_classes == 5 and all(tensor.is_meta for tensor in ghost.state_dict().values())
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 3}))
    for meta in (False, True):  # without numbers the same is checked
        with pytest.raises(MismatchError, match=r"blocks\.2\."):
            diffusers_folder.load(tmp_path, meta=meta)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/hostname", "..", "a\\b.safetensors", "sub/x.safetensors"]
)
def test_an_index_cannot_lead_out_of_its_folder(folder, name):
    split(folder / "unet", second=name)
    with pytest.raises(UnsafeCheckpointError, match=r"index.json"):
        d2o.load(folder)


def test_no_code_of_a_folder_is_run(folder, tmp_path):
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')\n"
    for name in ("unet/modeling.py", "unet/evil.py", "evil.py", "unet/__init__.py", "pipeline.py"):
        (folder / name).write_text(code)
    change(folder / "model_index.json", _class_name=["pipeline", "Evil"], unet=["evil", "UNet2DModel"])
    change(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.UNet2DModel"})
    before = set(sys.modules)
    with pytest.raises(UnsupportedCheckpointError, match="auto_map"):
        d2o.load(folder)
    assert not canary.exists() and not any("evil" in name for name in set(sys.modules) - before)


def test_a_torch_file_is_read_as_data(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    (folder / "unet" / WEIGHTS).unlink()
    torch.save({**make_unet().state_dict(), "conv_in.weight": Evil()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError):
        d2o.load(folder)
    assert not (tmp_path / "canary").exists()


HOSTILE = {
    "unknown key": ({"dropouts": 0.1}, UnsupportedCheckpointError, "dropouts"),
    "huge": ({"block_out_channels": [8, 10**9]}, UnsupportedCheckpointError, "block_out_channels"),
    "endless": ({"layers_per_block": 10**7}, UnsupportedCheckpointError, "layers_per_block"),
    "words": ({"sample_size": "8"}, UnsupportedCheckpointError, "sample_size"),
    "oblong": ({"sample_size": [8, 16]}, UnsupportedCheckpointError, "sample_size"),
    "other class": ({"_class_name": "UNet2DConditionModel"}, UnsupportedCheckpointError, "UNet2DConditionModel"),
    "no class": ({"_class_name": ["os", "system"]}, UnsupportedCheckpointError, "class"),
    "score_sde": ({"time_embedding_type": "fourier"}, UnsupportedCheckpointError, "time_embedding_type"),
    "outputs": ({"out_channels": 4}, UnsupportedCheckpointError, "output channels"),
    "classes": ({"num_class_embeds": -1}, UnsupportedCheckpointError, "num_classes"),
    "shapes": ({"block_out_channels": [8, 32]}, MismatchError, "shape"),
}


@pytest.mark.parametrize(("values", "kind", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_is_not_understood_is_refused(folder, values, kind, sentence):
    change(folder / "unet" / "config.json", **values)
    with pytest.raises(kind, match=sentence):
        d2o.load(folder)


SCHEDULERS = {
    "prediction": ({"prediction_type": "score"}, "'score'"),
    "schedule": ({"beta_schedule": "exec"}, "schedule"),
    "steps": ({"num_train_timesteps": 10**12}, "steps"),
    "beta": ({"beta_end": 7.5}, "between 0 and 1"),
    "betas": ({"trained_betas": "many"}, "betas"),
    "number": ({"trained_betas": 5}, "unet"),
    "no signal": ({"rescale_betas_zero_snr": True}, "zero_snr"),
}


@pytest.mark.parametrize(("values", "sentence"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_that_is_not_understood_is_refused(folder, values, sentence):
    change(folder / "scheduler" / "scheduler_config.json", **values)
    with pytest.raises(UnsupportedCheckpointError, match=sentence):
        d2o.load(folder)


def test_damaged_folders_are_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="diffusers folder"):
        d2o.load(tmp_path)
    (folder / "unet" / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(MalformedCheckpointError, match=WEIGHTS):
        d2o.load(folder)
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(MalformedCheckpointError, match=WEIGHTS):
        d2o.load(folder)
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text("[" * 100_000)
    with pytest.raises(MalformedCheckpointError, match=r"index.json"):
        d2o.load(folder)
    (folder / "unet" / "config.json").write_text("<html>")
    with pytest.raises(MalformedCheckpointError, match=r"config\.json"):
        d2o.load(folder)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(MalformedCheckpointError, match=r"config\.json"):
        d2o.load(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedCheckpointError, match="unet"):
        d2o.load(folder)


def test_latents_of_a_vqmodel_are_not_taken_for_pixels(folder):
    change(folder / "model_index.json", vqvae=["diffusers", "VQModel"])
    with pytest.raises(UnsupportedCheckpointError, match="VQModel"):
        d2o.load(folder)
