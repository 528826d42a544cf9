"""Every preset of a published network at full size, with random weights: first as shapes, then two real steps.

Those of text-to-image networks take their steps with few layers, on small images (SHALLOW).

python benchmarks/full_size.py                       all of them, each in a process of its own; hours on a small CPU
python benchmarks/full_size.py cifar10-d2o-f         some
python benchmarks/full_size.py --precision float32   for processors without bfloat16, several times as fast
python benchmarks/full_size.py --meta                shapes only; a few minutes
python benchmarks/full_size.py --table               the table of docs/reproduce.md

What the steps did stands in benchmarks/results/full_size.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from operations import Operations

from d2o.files import atomic
from d2o.objectives import Adversarial, Denoising, Progressive
from d2o.objectives.objective import Batch, Networks
from d2o.planning.presets import LATENT, draw_condition, noise_batches, randomise_weights, untrained_teacher
from d2o.planning.text_networks import PUBLISHED, Published, make_published
from d2o.training.freezing import Share, count_frozen
from d2o.training.loop import train, turns
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from d2o.training.recipes import DATA, PAPER_FID, RECIPES, find_recipe

SMALL = ("digits", "cifar10-small")
TEXT = {f"{start}-d2o-f": row for start, row in PUBLISHED.items()}
"""The recipes of text-to-image networks, and these."""
PRESETS = tuple(name for name in RECIPES if name.startswith((*DATA, LATENT, *TEXT)) and not name.startswith(SMALL))
"""The recipes of full-size networks."""
TWO_LEVELS = {
    "block_out_channels": [320, 640],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}
SHALLOW = {  # what is less than published of the networks that take real steps, and the side of their latents
    "coco256-d2o-f": (TWO_LEVELS, 16),
    "sd15-d2o-f": (TWO_LEVELS, 16),
    "sdxl-d2o-f": ({**TWO_LEVELS, "transformer_layers_per_block": [1, 1], "attention_head_dim": [5, 10]}, 16),
    "sd3-d2o-f": ({"num_layers": 2}, 16),
    "sana-d2o-f": ({"num_layers": 1}, 4),
    "flux-d2o-f": ({"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 6}, 16),  # a quarter of its width
}
RESULTS = Path(__file__).parent / "results" / "full_size.json"
SUSTAINED = 40e12
"""Operations a second that one GPU is supposed to sustain: an assumption."""
CIFAR10 = (
    "d2o", "d2o-f", "d2o-f-200k", "d2o-200k", "d2o-f-conv-qkv", "d2o-2step", "scratch", "pd", "cd", "ctm", "rcd",
    "cd-gan", "ctm-gan", "d2o-lite0", "d2o-stylegan2", "d2o-perceptual",
)  # fmt: skip
ROWS = (
    "cifar10-pretrain", *(f"cifar10-{name}" for name in CIFAR10), "ffhq64-d2o-f", "afhqv2-64-d2o", "afhqv2-64-d2o-f",
    "imagenet64-d2o", "imagenet64-d2o-f", "dit-d2o-f",
)  # fmt: skip
OF_THE_OBJECTIVES = {"cifar10-pd": "9.12 (o)", "cifar10-cd": "3.55 (o)", "cifar10-ctm-gan": "1.98 (o)"}


@dataclass(frozen=True)
class Rehearsal:
    """What was found: frozen and all parameters of the student, trainable ones of the discriminator, and every turn.

    `losses` are the last ones, on a real device. `operations` counts multiplications and additions an image, on the
    meta device, where nothing is computed; those of turns that come now and then are spread over the iterations.
    """

    share: Share
    discriminator: int
    turns: tuple[str, ...]
    losses: dict[str, float]
    operations: float = 0.0


def rehearse(
    name: str,
    device: str = "meta",
    iterations: int = 2,
    batch_size: int = 2,
    precision: str | None = None,
    network: Published | None = None,
    **changes: Any,
) -> Rehearsal:
    """Go through every turn of a preset with random weights everywhere; on a real device, train so many iterations.

    `precision` replaces the preset's, for processors that take minutes to emulate it; `network` the one that it is
    for, and `changes` are of other fields.
    """
    recipe = replace(shorten(randomise_weights(find_recipe(name)), meta=device == "meta"), **changes)
    recipe = replace(recipe, precision="float32" if device == "meta" else precision or recipe.precision)
    micro = 1 if recipe.micro_batch_size else None
    recipe = replace(recipe, batch_size=batch_size, micro_batch_size=micro, duration=iterations * batch_size)
    with torch.device(device):
        teacher = make_published(network, device) if network else untrained_teacher(name, recipe, device)
        made = networks(recipe, teacher)
    discriminator = made.discriminator
    trainable = [] if discriminator is None else [p for p in discriminator.parameters() if p.requires_grad]
    heads = sum(p.numel() for p in trainable)
    if device == "meta":
        spent = count_operations(recipe, made)
        steps = {turn.name: turn.times / turn.every for turn in turns(find_recipe(name), made)}
        operations = sum(count * steps[turn] for turn, count in spent.items())
        return Rehearsal(count_frozen(made.student), heads, tuple(spent), {}, operations)
    *_, progress = train(recipe, made, noise_batches(made.student, batch_size))
    return Rehearsal(count_frozen(made.student), heads, tuple(progress.losses), dict(progress.losses))


def shorten(recipe: Recipe, meta: bool) -> Recipe:
    """Return the recipe with all that a run does in two iterations: R1 in each, two rounds of progressive distillation.

    On the meta device images stay as they are: what is warped depends on numbers, and there are none.
    """
    changes = {
        Adversarial: {"r1_every": 1},
        Progressive: {"steps": 4},
        Denoising: {"augmentation": None} if meta else {},
    }
    objectives = tuple(replace(o, **changes.get(type(o), {})) for o in recipe.objectives)  # type: ignore[arg-type]
    return replace(recipe, objectives=objectives)


def count_operations(recipe: Recipe, made: Networks) -> dict[str, float]:
    """Send a batch of shapes through the losses and gradients of every turn; return the operations of each an image.

    Of images that are made in several steps, there is one after each.
    """
    stages = max(len(made.student.middle_sigmas) + 1, 2)
    images = torch.empty(stages, *made.student.pixel_shape, device="meta")
    with torch.device("meta"):
        condition = draw_condition(made.student, range(stages))
    stage = Batch(images[:1], None, range(1000), recipe.seed).choices("generator stage", stages)
    batch = Batch(images, condition, [stage.index(k) for k in range(stages)], recipe.seed)
    spent = {}
    for turn in turns(recipe, made):
        with Operations() as counter:
            loss = turn.loss(made, batch)
            assert loss.shape == (stages,), f"{turn.name} is not a loss an image but {tuple(loss.shape)}"
            loss.mean().backward()
        spent[turn.name] = counter.total / stages
    return spent


def table() -> None:
    """Print the rows of docs/reproduce.md: counted operations, and what follows from them for the hours."""
    print("| recipe | published FID | images | frozen | GFLOP an image | GPU hours |")
    print("|---|---|---|---|---|---|")
    for name in ROWS:
        found, recipe = rehearse(name), RECIPES[name]
        fid = PAPER_FID.get(name, OF_THE_OBJECTIVES.get(name, "-"))
        hours = found.operations * recipe.duration / SUSTAINED / 3600
        frozen = f"{found.share.frozen / found.share.total:.1%}" if found.share.frozen else "-"
        operations = f"{found.operations / 1e9:,.0f}"
        print(f"| `{name}` | {fid} | {recipe.duration / 1e6:g} M | {frozen} | {operations} | {hours:.1f} |", flush=True)


def make_shallow(name: str) -> Published | None:
    """Return the network with which a preset takes real steps, where that is not the published one."""
    if name not in SHALLOW:
        return None
    settings, side = SHALLOW[name]
    row = TEXT[name]
    return row._replace(settings={**row.settings, **settings}, latents=(row.latents[0], side, side))


def show(name: str, meta: bool, precision: str | None) -> None:
    """Print what a rehearsal of one preset found."""
    began = time.monotonic()
    shapes = rehearse(name)
    parts = (
        str(shapes.share),
        f"discriminator {shapes.discriminator:,}",
        f"turns {', '.join(shapes.turns)}",
        f"{shapes.operations / 1e9:,.0f} GFLOP an image",
    )
    print(f"{name}: {'; '.join(parts)}", flush=True)
    if not meta:
        network = make_shallow(name)
        found = rehearse(name, "cpu", precision=precision, network=network)
        seconds = time.monotonic() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        losses = ", ".join(f"{turn} {value:.3g}" for turn, value in found.losses.items())
        print(f"  two steps of batch 2 in {seconds:.0f} s, {memory:.1f} GiB: {losses}", flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = {
            "parameters": shapes.share.total,
            "frozen": shapes.share.frozen,
            "discriminator": shapes.discriminator,
            **(
                {
                    "shallow": SHALLOW[name][0],
                    "latents": list(network.latents),
                    "parameters_of_shallow": found.share.total,
                }
                if network
                else {}
            ),
            "steps": 2,
            "batch_size": 2,
            "precision": precision or RECIPES[name].precision,
            "losses": found.losses,
            "seconds": round(seconds, 1),
            "peak_memory_gib": round(memory, 2),
            "command": f"python benchmarks/full_size.py {name}" + (f" --precision {precision}" if precision else ""),
        }
        with atomic(RESULTS) as temporary:
            temporary.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PRESET", help=", ".join(PRESETS))
    parser.add_argument("--meta", action="store_true")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="instead of each preset's own")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table()
    elif len(options.names) == 1:
        show(options.names[0], options.meta, options.precision)
    else:  # each in a process of its own, so that its memory is its own too
        extra = ["--meta"] if options.meta else []
        extra += ["--precision", options.precision] if options.precision else []
        commands = ([sys.executable, __file__, name, *extra] for name in options.names or PRESETS)
        sys.exit(max(subprocess.run(command, check=False).returncode for command in commands))
