"""Which operators a training iteration spends its time in: python benchmarks/operators.py [--kind d2o_f|d2o|pretrain].

Prints their own time by torch's profiler, which itself takes time: read it as shares.
"""

import argparse
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from d2o.bench.problem import Choice, noise_images
from d2o.bench.steps import Steps

ITERATIONS = 16
"""As many as R1 comes once in."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("d2o_f", "d2o", "pretrain"), default="d2o_f")
    parser.add_argument("--recipe", default="cifar10-small-d2o-f")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    problem = Choice(options.recipe).problem()
    with tempfile.TemporaryDirectory() as folder:
        images = noise_images(2 * problem.student.batch_size, problem.teacher.pixel_shape, 10, Path(folder))
        steps = Steps(problem.recipes()[options.kind], problem.teacher, images, options.plain)
        for _ in range(3):
            steps.step()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(ITERATIONS):
                steps.step()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"{options.kind}, milliseconds an iteration: {total / ITERATIONS / 1000:.1f}")
    print("| operator | share of the time | calls an iteration |\n|---|---|---|")
    for row in rows[: options.rows]:
        print(f"| {row.key} | {row.self_cpu_time_total / total:.1%} | {row.count / ITERATIONS:.0f} |")


if __name__ == "__main__":
    main()
