"""How much bfloat16 changes one-step images of small random networks, by the family of what they predict."""

import torch

from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import VE, Boundary, Epsilon, Flow, Preconditioning, Velocity, amplification
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import sample
from d2o.training.starts import DDPMPP

SHAPE, IMAGES, SEEDS = (3, 16, 16), 32, 3
NETWORKS = {
    "U-Net": {**DDPMPP, "channels": 32, "channel_multipliers": [2, 2], "num_blocks": 1, "attention_resolutions": [8]},
    "DiT": {"kind": "dit", "patch_size": 2, "channels": 128, "num_blocks": 6, "num_heads": 4},
}
FAMILIES: dict[str, Preconditioning] = {
    "epsilon from 157": Epsilon(sigma_max=158.0),
    "epsilon, vp from 80": Epsilon(),
    "ve from 80": VE(),
    "epsilon from 5": Epsilon(sigma_max=5.0),
    "epsilon from 2.5": Epsilon(sigma_max=2.5),
    "edm, boundary": Boundary(),
    "velocity": Velocity(),
    "flow": Flow(time_scale=1000.0),
}


def random_network(name: str, seed: int) -> backbones.Backbone:
    """Return a network all of whose layers matter: a fresh one would nearly be the identity."""
    (channels, side, _), generator = SHAPE, torch.Generator().manual_seed(seed)
    sizes = {"resolution": side, "in_channels": channels, "out_channels": channels, "num_classes": 0}
    backbone = backbones.build({**NETWORKS[name], **sizes}).requires_grad_(False)
    for parameter in backbone.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone


@torch.no_grad()
def difference(backbone: torch.nn.Module, family: Preconditioning) -> float:
    """Return the root mean square by which one-step images in bfloat16 differ from those in float32."""
    exact = Denoiser(backbone, family, SHAPE).eval()
    noise = noise_for(range(IMAGES), SHAPE)
    images = [
        sample(exact.replace(precision=precision), noise, (family.sigma_max, 0.0))
        for precision in (torch.float32, torch.bfloat16)
    ]
    return (images[0] - images[1]).square().mean().sqrt().item()


def main() -> None:
    """Print the table of docs/performance.md."""
    print(f"| family | multiplies by | {' | '.join(NETWORKS)} |\n|---|---|{'---|' * len(NETWORKS)}")
    for title, family in FAMILIES.items():
        cells = []
        for name in NETWORKS:
            found = [difference(random_network(name, seed), family) for seed in range(SEEDS)]
            cells.append(f"{min(found):.2g} to {max(found):.2g}")
        print(f"| {title} | {amplification(family):.3g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
