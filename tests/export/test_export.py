"""Exports: each is loaded from disk in a fresh process, and makes the images that the denoiser makes in one step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2o
from d2o import backbones
from d2o.checkpoints import CheckpointError
from d2o.cli.main import run
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VP, Boundary, Epsilon, Flow, Velocity
from d2o.export import FORMATS, export
from d2o.export.one_step import OneStep, sample_one_step

from . import fresh
from .cards import run_program

diffusers: Any = pytest.importorskip("diffusers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ADM = {"kind": "dhariwal_unet", "channels": 128, "channel_multipliers": [1, 1], "num_blocks": 1}
ADM["attention_resolutions"] = [4]
SONG = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1}
SONG["attention_resolutions"] = [4]
UNET = {
    "kind": "diffusers_unet",
    "unet": {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
        "layers_per_block": 1,
    },
}
DIT = {"kind": "dit", "channels": 16, "num_blocks": 2, "num_heads": 2}
LOW = 3.0  # from higher levels, the images of random networks that predict noise are all clipped


def make(spec: dict, preconditioning: Any, classes: int = 0, channels: int = 3) -> Denoiser:
    """Return a denoiser of random weights, all of which matter."""
    sizes = {"resolution": 8, "in_channels": channels, "out_channels": channels, "num_classes": classes}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        backbone = backbones.build({**spec, **sizes})
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Denoiser(backbone, preconditioning, (channels, 8, 8), classes).eval()


STOCK = {  # name -> denoiser, the pipeline that runs it
    "adm": (make(ADM, Boundary()), "ConsistencyModelPipeline"),
    "adm-classes": (make(ADM, Boundary(sigma_max=20.0), 3), "ConsistencyModelPipeline"),
    "adm-edm": (make(ADM, EDM()), "ConsistencyModelPipeline"),
    "unet-consistency-classes": (make(UNET, Boundary(time_scale=250.0), 3), "ConsistencyModelPipeline"),
    "unet-epsilon": (make(UNET, Epsilon(sigma_max=LOW)), "DDIMPipeline"),
    "unet-epsilon-80": (make(UNET, Epsilon()), "DDIMPipeline"),
    "unet-velocity": (make(UNET, Velocity("squaredcos_cap_v2")), "DDIMPipeline"),
    "dit-classes": (make(DIT, Epsilon(sigma_max=LOW), 3, 4), "DiTPipeline"),
    "dit-diffusers-classes": (
        make({**DIT, "embedders": "per block", "time_endpoint": True}, Epsilon(sigma_max=LOW), 3, 4),
        "DiTPipeline",
    ),
    "unet-flow": (make(UNET, Flow(time_scale=1000.0)), "DDPMPipeline"),
    "unet-flow-classes": (make(UNET, Flow(towards="image"), 3), "ConsistencyModelPipeline"),
    "adm-trigflow": (make(ADM, Flow(path="trigonometric", angular=True)), "ConsistencyModelPipeline"),
    "dit-flow-classes": (make(DIT, Flow(towards="image"), 3, 4), "DiTPipeline"),
    "dit-trigflow-classes": (make(DIT, Flow(path="trigonometric"), 3, 4), "DiTPipeline"),
}
OWN = {
    "song": make(SONG, Boundary()),
    "song-classes": make(SONG, EDM(), 3),
    "song-vp": make(SONG, VP(sigma_max=LOW)),
    "adm-narrow": make({**ADM, "channels": 32}, Boundary()),
    "unet-epsilon-classes": make(UNET, Epsilon(sigma_max=LOW), 3),
    "song-flow-classes": make(SONG, Flow(), 3),
    "dit-normalised": make({**DIT, "qk_norm": True}, Epsilon(sigma_max=LOW)),
}
PROGRAMS = {
    "adm-classes": make({**ADM, "channels": 16, "channel_multipliers": [1]}, Boundary(), 3),
    "unet-flow": make(UNET, Flow(time_scale=1000.0)),
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    """Return the folder of a tiny autoencoder."""
    folder = tmp_path_factory.mktemp("codec") / "vae"
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    sizes = {"latent_channels": 4, "block_out_channels": [8], "norm_num_groups": 4}
    diffusers.AutoencoderKL(**blocks, **sizes).save_pretrained(folder)
    return folder


def in_a_fresh_process(folder: Path, whose: str) -> dict[str, Tensor]:
    """Return what the exports in a folder make, by their names."""
    process = subprocess.run([sys.executable, fresh.__file__, str(folder), whose], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return {file.name.removesuffix(".made.pt"): torch.load(file) for file in folder.glob("*.made.pt")}


@pytest.fixture(scope="module")
def stock(tmp_path_factory, codec) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """Return the folder of all exports that need no d2o, the images that they make, and the programs' cards."""
    folder, cards = tmp_path_factory.mktemp("stock"), {}
    for name, (denoiser, pipeline) in STOCK.items():
        made = export(denoiser, folder / name, "diffusers", codec=str(codec) if pipeline == "DiTPipeline" else None)
        assert made.error < 1e-3 and pipeline in made.notes[0]
    for name, denoiser in PROGRAMS.items():
        for to in ("onnx", "torch"):
            made = export(denoiser, folder / f"{name}{FORMATS[to].suffix}", to)
            assert made.error < 1e-4
            cards[made.path.name] = made.card.read_text()
    return folder, in_a_fresh_process(folder, "stock"), cards


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("own")
    for name, denoiser in OWN.items():
        made = export(denoiser, folder / name, "diffusers")
        assert made.error < 1e-4 and "import d2o.checkpoints.diffusers_model" in made.notes[1]
    return folder, in_a_fresh_process(folder, "own")


def wanted(denoiser: Denoiser) -> Tensor:
    """Return the images of d2o for the noise and labels of the fresh process."""
    noise = torch.randn(fresh.COUNT, *denoiser.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return sample_one_step(denoiser, noise, torch.tensor(fresh.LABELS) if denoiser.num_classes else None)


def visible(images: Tensor) -> Tensor:
    """Return images as pipelines give them."""
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("name", STOCK)
def test_stock_classes_make_the_same_images(stock, codec, name):
    denoiser, pipeline = STOCK[name]
    images = wanted(denoiser)
    if pipeline == "DiTPipeline":
        vae = diffusers.AutoencoderKL.from_pretrained(codec)
        with torch.no_grad():
            images = vae.decode(images / vae.config.scaling_factor).sample
    made = stock[1][name]
    amplified = 1 if isinstance(denoiser.preconditioning, Flow) else max(1, denoiser.sigma_max / 8)
    assert (made - visible(images)).abs().max() < 2e-5 * amplified
    assert 0.1 < made.mean() < 0.9 and made.std() > 0.05
    index = json.loads((stock[0] / name / "model_index.json").read_text())
    assert index["_class_name"] == pipeline
    assert all(part is None or part[0] == "diffusers" for part in index.values() if isinstance(part, list))


@pytest.mark.parametrize("name", OWN)
def test_our_own_model_makes_the_same_images_in_a_stock_pipeline(own, name):
    assert (own[1][name] - visible(wanted(OWN[name]))).abs().max() < 1e-5


@pytest.mark.parametrize("name", OWN)
def test_our_own_model_comes_back(own, name):
    again = d2o.load(own[0] / name)
    assert again.preconditioning == OWN[name].preconditioning
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in OWN[name].state_dict().items())


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_programs_make_the_same_images_for_any_number_of_them(stock, name, suffix):
    assert (stock[1][f"{name}{suffix}"] - wanted(PROGRAMS[name])).abs().max() < 2e-5


def test_the_programs_of_their_cards_make_images(stock, monkeypatch):
    monkeypatch.chdir(stock[0])
    for name, card in stock[2].items():
        images = run_program(card)
        assert images.shape == (1, 3, 8, 8) and (torch.as_tensor(images).std() > 0.01), name


def test_an_onnx_file_says_what_it_is(stock):
    import onnx

    model = onnx.load(stock[0] / "adm-classes.onnx")
    assert [value.name for value in model.graph.input] == ["noise", "label"]
    assert [value.name for value in model.graph.output] == ["image"]
    spec = json.loads(next(row.value for row in model.metadata_props if row.key == "d2o"))
    assert spec["backbone"]["kind"] == "dhariwal_unet"
    sizes = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [0, 3, 8, 8]  # 0: free


def test_a_safetensors_file_comes_back_with_its_description_beside_it(tmp_path):
    made = export(OWN["song"], tmp_path / "model.safetensors", "safetensors")
    assert made.error == 0
    again = d2o.load(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in OWN["song"].state_dict().items())
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["backbone"]["kind"] == "song_unet" and record["one_step"]["sigma"] == 80
    noise = torch.randn(2, 3, 8, 8)
    numbers = record["one_step"]
    with torch.no_grad():
        told = OWN["song"].backbone(numbers["scale"] * noise, torch.full((2,), numbers["time"]))
        by_hand = numbers["identity"] * noise + numbers["output"] * told
        torch.testing.assert_close(by_hand, sample_one_step(OWN["song"], noise, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["safetensors", "diffusers", "torch"])
def test_half_precision_halves_the_file_and_says_its_error(tmp_path, to):
    denoiser = make({**SONG, "channels": 32, "channel_multipliers": [1]}, Flow())
    sizes = {}
    for dtype, least, worst in (("float32", 0, 1e-4), ("float16", 1e-5, 3e-3), ("bfloat16", 1e-5, 3e-2)):
        made = export(denoiser, tmp_path / f"{dtype}{FORMATS[to].suffix}", to, dtype=dtype)
        files = [file for file in made.path.rglob("*") if file.is_file()] if made.path.is_dir() else [made.path]
        sizes[dtype] = sum(file.stat().st_size for file in files)
        assert least <= made.error < worst, dtype
    assert max(sizes["float16"], sizes["bfloat16"]) < 0.75 * sizes["float32"]


def test_numbers_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    denoiser = make(SONG, Boundary())
    with torch.no_grad():
        next(denoiser.backbone.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match=r"float16.*--dtype bfloat16"):
        export(denoiser, tmp_path / "model.safetensors", "safetensors", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_left_as_it_is(tmp_path):
    denoiser = make(UNET, Epsilon(sigma_max=LOW)).train()
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    export(denoiser, tmp_path / "folder", "diffusers", dtype="bfloat16")
    assert denoiser.training and all(torch.equal(before[name], t) for name, t in denoiser.state_dict().items())


def test_a_folder_of_a_latent_model_says_when_its_autoencoder_is_missing(tmp_path):
    made = export(STOCK["dit-classes"][0], tmp_path / "folder", "diffusers")
    assert any("--codec" in note for note in made.notes)


@pytest.mark.parametrize("name", OWN)
def test_the_generator_is_one_step_of_the_denoiser(name):
    denoiser = OWN[name]
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([1, 2]) if denoiser.num_classes else None
    with torch.no_grad():
        made, wanted = OneStep(denoiser)(noise, label), sample_one_step(denoiser, noise, label)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "to", "dtype", "sentence"),
    [
        ("model.onnx", "torch", "float32", r"model\.onnx.*\.pt2"),
        ("model", "tensorflow", "float32", "tensorflow.*safetensors, diffusers, onnx, torch"),
        ("model.onnx", "onnx", "float8", "float8.*float32, float16, bfloat16"),
        ("full", "diffusers", "float32", "full.*new folder"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, name, to, dtype, sentence):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(CheckpointError, match=sentence):
        export(OWN["song"], tmp_path / name, to, dtype=dtype)


@pytest.mark.parametrize(
    ("package", "to", "extra"),
    [("onnxruntime", "onnx", "export"), ("onnxscript", "onnx", "export"), ("diffusers", "diffusers", "diffusers")],
)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, to, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=rf"pip install -e '\.\[{extra}\]'"):
        export(OWN["song"], tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_error(tmp_path, capsys):
    d2o.save(tmp_path / "model.safetensors", OWN["song"])
    model, out = str(tmp_path / "model.safetensors"), str(tmp_path / "folder")
    assert run(["export", model, "--to", "diffusers", out]) == 0
    printed = capsys.readouterr().out
    assert "largest difference" in printed and "import d2o.checkpoints.diffusers_model" in printed
    assert run(["export", model, "--to", "torch", str(tmp_path / "model.onnx")]) == 2
