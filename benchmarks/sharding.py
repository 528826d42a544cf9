"""What one process of a run holds of the denoisers, whole or sharded: weights, gradients and Adam's moments.

python benchmarks/sharding.py cifar10-d2o-f
torchrun --nproc_per_node 2 benchmarks/sharding.py cifar10-d2o-f --shard
torchrun --nproc_per_node 2 benchmarks/sharding.py digits-d2o-f

Weights are random, one image passes at a time. The seconds are those of the fastest of --iterations, after a first.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.planning.presets import noise_batches, randomise_weights, untrained_teacher
from d2o.training.loop import Progress, group, parameters_of, train
from d2o.training.networks import networks
from d2o.training.recipes import find_recipe
from d2o.training.sharding import is_sharded

MIB = 1 << 20


def count_bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of tensors, or of this process's parts of them; what they share is counted once."""
    parts: list[Tensor] = [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def measure(progress: Progress) -> dict[str, float]:
    """Return the MiB of all denoisers' weights, of the student's gradients, and of its moments."""
    denoisers = [network for network in progress.networks.by_name().values() if isinstance(network, Denoiser)]
    optimizer = progress.optimizers["student"]
    moments = [value for row in optimizer.state.values() for value in row.values() if value.dim()]
    parts = {
        "weights": count_bytes(weight for network in denoisers for weight in network.parameters()),
        "gradients": count_bytes(parameters_of(optimizer)),
        "moments": count_bytes(moments),
    }
    return {name: round(size / MIB, 3) for name, size in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--iterations", type=int, default=3)
    options = parser.parse_args()
    accelerator = group()
    recipe = randomise_weights(find_recipe(options.recipe))
    recipe = replace(recipe, batch_size=2, micro_batch_size=1, precision="float32")
    made = networks(recipe, untrained_teacher(options.recipe, recipe))
    batches = noise_batches(made.student, 2 // accelerator.num_processes)
    run = train(recipe, made, batches, accelerator=accelerator, sharded=options.shard)
    seconds, progress = [], next(run)
    for _ in range(options.iterations):
        began = time.perf_counter()
        progress = next(run)
        seconds.append(time.perf_counter() - began)
    if accelerator.is_main_process:
        found = {"processes": accelerator.num_processes, "sharded": options.shard, **measure(progress)}
        print(json.dumps({**found, "seconds": round(min(seconds), 3)}))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
