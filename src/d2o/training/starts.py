"""Networks to start from random weights, and what they may predict, by name.

`tiny`, `small`, `folded` and `words` learn on two CPU cores; the others are the public EDM checkpoints'.
"""

from typing import Any

DDPMPP = {"kind": "song_unet", "embedding": "positional", "encoder": "standard", "resample_filter": [1, 1]}
PLAIN = {**DDPMPP, "num_blocks": 1, "dropout": 0.0}
NCSNPP = {
    "kind": "song_unet",
    "embedding": "fourier",
    "encoder": "residual",
    "noise_embedding_multiplier": 2,
    "resample_filter": [1, 3, 3, 1],
}
ADM = {"kind": "dhariwal_unet", "channels": 192, "channel_multipliers": [1, 2, 3, 4], "num_blocks": 3}
BACKBONES: dict[str, dict[str, Any]] = {
    "tiny": {**PLAIN, "channels": 16, "channel_multipliers": [2, 2]},
    "small": {**PLAIN, "channels": 32, "channel_multipliers": [2, 2]},
    "folded": {**PLAIN, "channels": 64, "channel_multipliers": [1, 2, 2], "patch_size": 2},
    "words": {"kind": "text_unet", "channels": 64, "channel_multipliers": [1, 2], "num_blocks": 1},
    "ddpmpp-32": {**DDPMPP, "channels": 128, "channel_multipliers": [2, 2, 2], "dropout": 0.13},
    "ncsnpp-32": {**NCSNPP, "channels": 128, "channel_multipliers": [2, 2, 2], "dropout": 0.13},
    "ddpmpp-64": {**DDPMPP, "channels": 128, "channel_multipliers": [1, 2, 2, 2], "dropout": 0.05},
    "ncsnpp-64": {**NCSNPP, "channels": 128, "channel_multipliers": [1, 2, 2, 2], "dropout": 0.05},
    "adm-64": {**ADM, "dropout": 0.10},
}

FAMILIES: dict[str, dict[str, Any]] = {  # to train from random weights
    "edm": {"kind": "edm"},
    "flow": {"kind": "flow", "time_scale": 1000.0},
    "trigflow": {"kind": "flow", "path": "trigonometric", "angular": True},
    "epsilon": {"kind": "epsilon"},
}
