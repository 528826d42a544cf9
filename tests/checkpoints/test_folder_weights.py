"""Which weights of a diffusers folder are read: variants in all spellings, which comes first, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import d2o
from d2o.checkpoints import CheckpointError, inspect
from d2o.checkpoints.readers.folder_weights import STEM, find_weights, read_variant
from d2o.cli.main import run
from d2o.errors import MalformedCheckpointError, UnsupportedCheckpointError

diffusers: Any = pytest.importorskip("diffusers")

SETTINGS = {
    "sample_size": 8,
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(**SETTINGS)


def pipeline(path: Path, **others: Any) -> Path:
    """Write a pipeline's folder; `others` are parts that its index names."""
    diffusers.DDPMPipeline(network(), diffusers.DDPMScheduler()).save_pretrained(path)
    index = path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | others))
    return path


def is_of(denoiser: d2o.Denoiser, seed: int, tolerance: float = 0) -> bool:
    wanted = network(seed).state_dict()
    made = {name.removeprefix("unet."): tensor for name, tensor in denoiser.backbone.state_dict().items()}
    return all((tensor - made[name]).abs().max() <= tolerance for name, tensor in wanted.items())


@pytest.mark.parametrize("variant", [None, "fp16", "bf16", "ema", "non_ema", "step-7"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["5GB", "3KB"])
def test_what_diffusers_writes_is_read(tmp_path, variant, safe, size):
    network().save_pretrained(tmp_path, variant=variant, safe_serialization=safe, max_shard_size=size)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    denoiser = d2o.load(tmp_path)
    assert is_of(denoiser, 0) and denoiser.provenance["assumed"] == {}
    assert find_weights(tmp_path).variant == (variant or "")
    assert len(denoiser.provenance["sha256"]) == (1 if size == "5GB" else len(list(tmp_path.glob("*-of-*"))))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (f"{STEM}.safetensors", ""),
        (f"{STEM}.fp16.safetensors", "fp16"),
        (f"{STEM}.fp16.safetensors.index.json", "fp16"),
        (f"{STEM}.safetensors.index.fp16.json", "fp16"),
        (f"{STEM}.safetensors.fp16.index.json", "fp16"),
        (f"{STEM}.bin.index.json", ""),
        (f"{STEM}-00001-of-00002.safetensors", None),
        (f"{STEM}.fp16-00001-of-00002.safetensors", None),
        (f"{STEM}-00001-of-00002.fp16.bin", None),
        (f"{STEM}.safetensors.md5", None),
        (f"{STEM}.onnx", None),
    ],
)
def test_a_variant_stands_anywhere_in_the_name(name, variant):
    assert read_variant(name) == variant


ORDER = (
    "ema.safetensors",
    "ema.bin",
    "safetensors",
    "bin",
    "step9.bin",
    "fp16.ema.bin",
    "fp16.safetensors",
    "fp16.bin",
)
ORDER += ("non_ema.safetensors", "no-ema.bin", "non_ema.fp16.safetensors")


def test_the_averaged_weights_of_the_best_precision_come_first(tmp_path):
    for name in ORDER:
        (tmp_path / f"{STEM}.{name}").touch()
    for name in ORDER:
        assert find_weights(tmp_path).file.name == f"{STEM}.{name}"
        (tmp_path / f"{STEM}.{name}").unlink()
    with pytest.raises(MalformedCheckpointError, match="download"):
        find_weights(tmp_path)


def test_what_was_chosen_among_several_is_said_and_can_be_wished(tmp_path, capsys):
    network(0).save_pretrained(tmp_path)
    network(1).save_pretrained(tmp_path, variant="non_ema", max_shard_size="3KB")
    network(2).half().save_pretrained(tmp_path, variant="fp16")
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    denoiser = d2o.load(tmp_path)
    assert is_of(denoiser, 0) and denoiser.provenance["weights"] == f"{STEM}.safetensors"
    assert run(["inspect", str(tmp_path), "--json"]) == 0
    assumed = json.loads(capsys.readouterr().out)["assumed"]["weights"]
    assert assumed.startswith(f"{STEM}.safetensors, not") and "non_ema" in assumed and "fp16" in assumed
    assert is_of(d2o.load(tmp_path, key="non_ema"), 1) and is_of(d2o.load(tmp_path, key="fp16"), 2, 1e-3)
    assert inspect(tmp_path, key="non_ema").denoiser.provenance["weights"] == f"{STEM}.safetensors.index.non_ema.json"
    with pytest.raises(CheckpointError, match=r"'bf16'; it has '', 'fp16', 'non_ema'"):
        d2o.load(tmp_path, key="bf16")


def test_an_index_of_the_older_spelling_is_read(tmp_path):
    network().save_pretrained(tmp_path, variant="fp16", max_shard_size="3KB")
    index = tmp_path / f"{STEM}.safetensors.index.fp16.json"
    index.rename(tmp_path / f"{STEM}.safetensors.fp16.index.json")
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    assert is_of(d2o.load(tmp_path), 0)


def test_byte_order_marks_are_no_matter(tmp_path):
    pipeline(tmp_path)
    for file in tmp_path.rglob("*.json"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert is_of(d2o.load(tmp_path), 0)


def write_config(folder: Path, name: Any) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": name}))


class TestLatents:
    """A network whose images are latent ones is never taken for one of pixels."""

    @pytest.mark.parametrize("part", ["vqvae", "movq", "vae", "decoder"])
    @pytest.mark.parametrize("opened", [".", "unet"])
    def test_a_codec_beside_it_is_refused(self, tmp_path, part, opened):
        write_config(pipeline(tmp_path) / part, "VQModel")
        with pytest.raises(UnsupportedCheckpointError, match=f"{part}, of class VQModel"):
            d2o.load(tmp_path / opened)

    @pytest.mark.parametrize("opened", [".", "unet"])
    def test_so_is_one_that_the_index_names_and_nobody_downloaded(self, tmp_path, opened):
        pipeline(tmp_path, vqvae=["diffusers", "VQModel"])
        with pytest.raises(UnsupportedCheckpointError, match="VQModel"):
            d2o.load(tmp_path / opened)

    @pytest.mark.parametrize("part", ["vqvae", "movq", "vae"])
    @pytest.mark.parametrize("opened", [".", "unet"])
    def test_so_is_an_empty_folder_of_one(self, tmp_path, part, opened):
        (pipeline(tmp_path) / part).mkdir()
        with pytest.raises(MalformedCheckpointError, match=f"{part}/config.json: download"):
            d2o.load(tmp_path / opened)

    def test_the_folder_may_be_called_otherwise(self, tmp_path, monkeypatch):
        write_config(pipeline(tmp_path) / "vqvae", "VQModel")
        (tmp_path / "unet").rename(tmp_path / "network")
        monkeypatch.chdir(tmp_path / "network")
        with pytest.raises(UnsupportedCheckpointError, match="VQModel"):
            d2o.load(".")

    def test_folders_without_a_pipeline_are_no_part_of_it(self, tmp_path):
        network().save_pretrained(tmp_path / "mine")
        diffusers.DDPMScheduler().save_pretrained(tmp_path / "mine")
        write_config(tmp_path / "vae", "VQModel")
        assert d2o.load(tmp_path / "mine").codec is None

    def test_many_folders_do_not_hide_it(self, tmp_path):
        pipeline(tmp_path)
        for number in range(150):
            write_config(tmp_path / f"part{number}", "Something")
        write_config(tmp_path / "vqvae", "VQModel")
        with pytest.raises(UnsupportedCheckpointError, match="VQModel"):
            d2o.load(tmp_path / "unet")

    def test_an_autoencoder_belongs_to_the_network_alone_too(self, tmp_path):
        write_config(pipeline(tmp_path) / "vae", "AutoencoderKL")
        for opened in (tmp_path, tmp_path / "unet"):
            assert d2o.load(opened).codec == d2o.load(tmp_path).codec is not None


def test_an_index_of_a_variant_cannot_lead_out_of_its_folder(tmp_path):
    network().save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    (tmp_path / f"{STEM}.safetensors").unlink()
    index = tmp_path / f"{STEM}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"index\.fp16\.json"):
        d2o.load(tmp_path)
