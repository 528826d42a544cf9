"""UNet2DModel without its folder: the same network as diffusers makes, from its config or from shapes and names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2o
from d2o.checkpoints import inspect
from d2o.diffusion.families import Boundary, Epsilon, Velocity
from refusal import refused

diffusers: Any = pytest.importorskip("diffusers")
SIZES = {"sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 1}
SIZES |= {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "classes": {"num_class_embeds": 4, "layers_per_block": 2},
    "resampling blocks": {
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "resnet_time_scale_shift": "scale_shift",
    },
    "attention that resamples": {
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "downsample_type": "resnet", "upsample_type": "resnet", "in_channels": 1, "out_channels": 1,
    },
    "no attention, learned sigma": {
        "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False,
        "out_channels": 6,
    },
    "no middle": {"mid_block_type": None, "time_embedding_dim": 96},
}  # fmt: skip
SPELLED = {"norm_num_groups": 8, "norm_eps": 1e-6, "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0}
SPELLED |= {"block_out_channels": [8, 16], "attention_head_dim": None}
pytestmark = pytest.mark.filterwarnings("ignore:The weights in")


def make(**settings: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**SIZES | settings).eval()


@torch.no_grad()
def assert_same(denoiser: d2o.Denoiser, unet: Any) -> None:
    channels = denoiser.image_shape[0]
    x, time = torch.randn(2, channels, 8, 8), torch.tensor([3.0, 700.0])
    label: Tensor | None = torch.tensor([0, 3]) if denoiser.num_classes else None
    wanted = unet(x, time, label).sample[:, :channels]
    torch.testing.assert_close(denoiser.backbone(x, time, label), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_and_names_tell_all_but_the_side(tmp_path, form):
    path, unet = tmp_path / "model.pt", make(**FORMS[form])
    torch.save({"model": unet.state_dict(), "optimizer": {}}, path)
    assert_same(d2o.load(path, config={"sample_size": 8}), unet)
    assumed = inspect(path, config={"sample_size": 8}).as_dict()["assumed"]
    assert assumed["norm_num_groups"] == 32 and (assumed["family"], assumed["schedule"]) == ("epsilon", "linear")
    assert not {"sample_size", *FORMS[form]} & assumed.keys()
    with refused("model.pt", "sample_size", "--config"):
        d2o.load(path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("form", [SPELLED, FORMS["classes"]], ids=["spelled", "classes"])
def test_a_config_tells_the_rest(tmp_path, form, suffix):
    unet = make(**form)
    unet.save_pretrained(tmp_path, safe_serialization=suffix == "safetensors")
    path = (tmp_path / f"diffusion_pytorch_model.{suffix}").rename(tmp_path / f"unet.{suffix}")
    denoiser = d2o.load(path)
    assert_same(denoiser, unet)
    assert denoiser.provenance["assumed"] == {"family": "epsilon", "schedule": "linear"}
    with refused(str(tmp_path), str(path)):  # a folder of a file with another name
        d2o.load(tmp_path)
    config = (tmp_path / "config.json").rename(tmp_path / "elsewhere.json")
    assert_same(d2o.load(path, config=config), unet)


def test_the_scheduler_beside_it_is_the_family(tmp_path):
    unet, scheduler = make(), diffusers.DDPMScheduler(prediction_type="v_prediction", beta_end=0.03)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "pipe")
    torch.save(unet.state_dict(), tmp_path / "unet.pt")
    (tmp_path / "pipe/scheduler/scheduler_config.json").rename(tmp_path / "scheduler_config.json")
    denoiser = d2o.load(tmp_path / "unet.pt", config={"sample_size": 8})
    assert denoiser.preconditioning == Velocity(beta_end=0.03) and denoiser.clip == 1.0
    assert not {"family", "schedule"} & denoiser.provenance["assumed"].keys()
    with refused("unet.pt", "velocity", "family"):
        d2o.load(tmp_path / "unet.pt", config={"sample_size": 8}, family="epsilon")
    (tmp_path / "scheduler_config.json").rename(tmp_path / "pipe/scheduler/scheduler_config.json")
    inside = tmp_path / "pipe/unet/diffusion_pytorch_model.safetensors"
    assert d2o.load(inside).preconditioning == d2o.load(tmp_path / "pipe").preconditioning
    with pytest.warns(UserWarning, match="schedule = linear"):
        d2o.load(tmp_path / "unet.pt", config={"sample_size": 8})
    for family, wanted in (
        ("epsilon", Epsilon()), ("velocity", Velocity()), ("consistency", Boundary(time_scale=250.0)),
    ):  # fmt: skip
        found = d2o.load(tmp_path / "unet.pt", config={"sample_size": 8}, family=family)
        assert found.preconditioning == wanted and found.one_step == (family == "consistency")
        assert "family" not in found.provenance["assumed"] and found.clip is None


def test_what_does_not_fit_is_named(tmp_path):
    path, state = tmp_path / "unet.pt", make(**SPELLED).state_dict()
    torch.save(state, path)
    whole = SPELLED | {"sample_size": 8}
    for wrong, word in (
        ({"norm_num_groups": None}, "norm_num_groups"),
        ({"norm_num_groups": 3}, "num_groups"),
        ({"layers_per_block": 2}, "layers_per_block"),
        ({"block_out_channels": [8, 32]}, "block_out_channels"),
        ({"down_block_types": ["AttnDownBlock2D"] * 2}, "down_blocks.0.attentions"),
        ({"sample_size": 7}, "7"),
        ({"layers": 2}, "layers_per_block"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    ):
        with refused("unet.pt", word):
            d2o.load(path, config=whole | wrong)
    for name, tensor in (
        ("conv_in.weight", torch.zeros(3)),
        ("up_blocks.0.resnets.0.conv1.weight", None),
        ("time_proj.weight", torch.zeros(4)),
        ("lora", torch.zeros(4, 4)),
    ):
        torch.save({key: value for key, value in (state | {name: tensor}).items() if value is not None}, path)
        for use in (d2o.load, inspect):
            with refused("unet.pt", name if name != "time_proj.weight" else "Fourier"):
                use(path, config=whole)


def test_folders_of_other_configs_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 384}))
    torch.save(make().state_dict(), tmp_path / "pytorch_model.bin")
    with refused(str(tmp_path), str(tmp_path / "pytorch_model.bin")):
        d2o.load(tmp_path)
    assert_same(d2o.load(tmp_path / "pytorch_model.bin", config={"sample_size": 8}), make())
