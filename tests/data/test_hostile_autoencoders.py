"""Hostile folders of autoencoders: whatever their config.json asks for, one sentence, in seconds, in little memory."""

import json
from pathlib import Path

import pytest

from autoencoders import save_autoencoder

from . import hostile as h
from .making import make_folder
from .measuring import check


@pytest.mark.parametrize(
    "make",
    [
        lambda d: h.beside(d, {}, "config.json", h.pipe),
        lambda d: h.beside(d, {}, "config.json", h.zero),
        lambda d: h.sparse(d / "config.json", h.HOLES).parent,
        lambda d: make_folder(d, {"config.json": b"[" * 15_000}),
        lambda d: make_folder(d, {"config.json": config(block_out_channels=[1] * 100_000)}),
        lambda d: make_folder(d, {"config.json": config(block_out_channels=[2**60])}),
        lambda d: make_folder(d, {"config.json": config(block_out_channels="many")}),
        lambda d: make_folder(d, {"config.json": config(out_channels=True)}),
        lambda d: make_folder(d, {"config.json": config(scaling_factor=0)}),
        lambda d: make_folder(d, {"config.json": config(_class_name="os.system")}),
        lambda d: make_folder(d, {"config.json": config(_class_name=["AutoencoderKL"])}),
        lambda d: make_folder(d, {"config.json": config(layers_per_block=10**9)}),
        lambda d: make_folder(d, {"config.json": config(latent_channels=10**12)}),
        lambda d: make_folder(d, {"config.json": config(quantization_config={"quant_method": "bitsandbytes"})}),
        lambda d: make_folder(d, {"config.json": config(latent_channels=4, latents_mean=[0.0] * 3)}),
        lambda d: make_folder(d, {"config.json": config(latent_channels=1, latents_std=[0.0])}),
    ],
)
def test_hostile_autoencoders_are_refused(tmp_path, make):
    (tmp_path / "data").mkdir()
    check("codec", make(tmp_path / "data"), "--codec")


WIDE = [4096] * 8
HOSTILE = {
    "AutoencoderKL": [
        {"block_out_channels": WIDE, "layers_per_block": 32, "up_block_types": ["AttnUpDecoderBlock2D"] * 8},
        {"norm_num_groups": 0},
        {"down_block_types": 3},
        {"act_fn": "os.system"},
    ],
    "AutoencoderDC": [
        {"encoder_qkv_multiscales": [[], [3] * 5_000]},
        {"encoder_qkv_multiscales": [[], [10**9]]},
        {"encoder_block_out_channels": [10**6] * 2},
        {"attention_head_dim": 0},
    ],
    "AutoencoderTiny": [{"encoder_block_out_channels": WIDE, "num_encoder_blocks": [32] * 8}],
    "AutoencoderKLQwenImage": [{"dim_mult": WIDE, "num_res_blocks": 32}, {"temperal_downsample": []}],
}
"""What a config.json may ask of each kind beside honest weights."""


@pytest.mark.parametrize(("kind", "changes"), [(kind, changes) for kind, rows in HOSTILE.items() for changes in rows])
def test_autoencoders_that_cannot_be_built_are_refused(tmp_path, kind, changes):
    folder = Path(save_autoencoder(kind, tmp_path / "data"))
    honest = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(honest | changes))
    check("autoencoder", folder, str(folder))


def config(**changes: object) -> bytes:
    return json.dumps({"_class_name": "AutoencoderKL", "out_channels": 3, "block_out_channels": [8]} | changes).encode()
