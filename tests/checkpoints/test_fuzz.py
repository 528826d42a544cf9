"""Four thousand damaged files: declared errors only, no hang, no memory. A file may also stay harmless, never more."""

import random
import resource
import time
import warnings
from pathlib import Path

import pytest
import torch

import d2o
from d2o import backbones
from d2o.checkpoints import CheckpointError, inspect

from . import honest

TINY = {"img_resolution": 4, "img_channels": 1, "model_channels": 4, "channel_mult": [1], "num_blocks": 1}
TINY |= {"attn_resolutions": [], "channel_mult_emb": 1, "dropout": 0.0, "model_type": "SongUNet", "label_dim": 2}


def files() -> dict[str, bytes]:
    """Return one small honest file of every kind that is followed symbolically."""
    made = backbones.build(
        {
            "kind": "song_unet", "resolution": 4, "in_channels": 1, "out_channels": 1, "num_classes": 2, "channels": 4,
            "channel_multipliers": [1], "num_blocks": 1, "attention_resolutions": [], "embedding_multiplier": 1,
        }
    )  # fmt: skip
    network = honest.network("EDMPrecond", made, TINY, sigma_data=0.5)
    state = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(3).half()}
    return {
        "protocol 2": honest.edm_file(network, protocol=2),
        "protocol 4": honest.edm_file(network, protocol=4),
        "zip": honest.torch_zip(lambda tensors: {"model": dict(tensors), "args": 3}, state),
        "legacy": honest.torch_legacy(lambda tensors: {"model": dict(tensors), "args": 3}, state),
    }


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a file with bytes changed, put in, left out, copied or cut off; also near its start, where it matters."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(min(len(changed), chance.choice((64, 4096, len(changed)))) or 1)
        kind = chance.randrange(7)
        if kind < 3:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            changed[place:place] = chance.randbytes(chance.choice((1, 4, 8)))
        elif kind == 4:
            del changed[place : place + chance.choice((1, 4, 100))]
        elif kind == 5:
            source = chance.randrange(len(changed) or 1)
            changed[place:place] = changed[source : source + chance.choice((1, 20, 500))]
        else:
            del changed[chance.randrange(len(changed) or 1) :]
    return bytes(changed)


@pytest.mark.parametrize(("name", "count"), [("protocol 2", 500), ("protocol 4", 900), ("zip", 1300), ("legacy", 1300)])
def test_damaged_files_give_declared_errors_only(tmp_path: Path, name: str, count: int) -> None:
    content, chance, path = files()[name], random.Random(name), tmp_path / "model.pkl"
    warnings.simplefilter("ignore")
    memory, longest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
    for _ in range(count):
        path.write_bytes(mutated(content, chance))
        began = time.process_time()
        try:
            found = inspect(path).denoiser if chance.random() < 0.5 else d2o.load(path)
            assert isinstance(found, d2o.Denoiser)
        except CheckpointError as error:
            assert "model.pkl" in str(error) and len(str(error)) < 2000
            refused += 1
        longest = max(longest, time.process_time() - began)
    assert longest < 2
    assert refused > count // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kilobytes
