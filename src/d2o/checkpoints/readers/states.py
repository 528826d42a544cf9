"""State dicts: which network has weights of these names, and which reader makes a denoiser of them."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.errors import UnsupportedCheckpointError

from . import diffusers_state, dit, edm_state, openai_unet

READERS = (dit, openai_unet, edm_state, diffusers_state)
"""Each recognises its own names; no two have the same."""
KNOWN = "DiT, SiT, EDM, consistency_models, guided-diffusion, improved-diffusion and UNet2DModel of diffusers"
OWN_NETWORK = "`--import` brings its class along (docs/how-to/own-network.md)"
STRANGERS = (
    (r"(^|\.)downs\.0\.0\.block1\.proj\.weight$", "lucidrains' denoising_diffusion_pytorch"),
    (r"(^|\.)all_modules\.0\.(weight|W)$", "score_sde"),
    (r"(^|\.)down\.0\.block\.0\.conv1\.weight$", "the DDPM of ddim"),
    (r"\.transformer_blocks\.0\.attn2\.", "a U-Net that reads text"),
    (r"(^|\.)emb_fourier\.freqs$", "EDM2, without the arguments that its pickles have beside them"),
)
"""A name that only some other network has, and whose it is."""


def read(state: Mapping[str, Tensor], path: Path, **told: Any) -> Denoiser:
    """Return the denoiser of weights that are known by their names; `told` is what a user or a training script says."""
    for reader in READERS:
        if reader.recognise(state):
            return reader.from_state(state, path, **told)
    for pattern, network in STRANGERS:
        if any(re.search(pattern, name) for name in state):
            reason = f"{path} contains weights of {network}, which d2o does not read"
            raise UnsupportedCheckpointError(f"{reason}: {OWN_NETWORK}.")
    counts = Counter(name.partition(".")[0][:60] for name in state).most_common(5)
    shown = ", ".join(f"{first} ({count})" for first, count in counts)
    reason = f"{path} contains weights of an unknown network, of the parts {shown}"
    raise UnsupportedCheckpointError(f"{reason}; d2o knows those of {KNOWN}, and {OWN_NETWORK}.")
