"""The memory that training takes, measured in a process of its own: python -m d2o.bench.memory '{"kind": ...}'."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .machine import resident
from .problem import Choice, noise_images
from .steps import Steps


@dataclass(frozen=True)
class Run:
    """Which training is measured."""

    choice: Choice
    kind: str
    plain: bool


def peak(run: Run) -> int | None:
    """Return by how many bytes a fresh process grows at most in two iterations, or None where no one can tell.

    Raises ValueError when that process dies, as where the memory is used up.
    """
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-m", "d2o.bench.memory", json.dumps(asdict(run))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1][:300] if said else f"it was ended by signal {-done.returncode}, as where memory is used up"
        raise ValueError(f"Measuring the memory of {run.kind} failed; try a smaller --batch. The process: {reason}")
    return int(done.stdout)


def grow(run: Run) -> int:
    """Return by how many bytes this process grows; what is there after a step with two images does not count.

    That is the interpreter, its libraries with the kernels they make, the teacher, and the frozen networks' weights.
    """
    problem = run.choice.problem()
    with tempfile.TemporaryDirectory() as folder:
        images = noise_images(256, problem.teacher.pixel_shape, problem.teacher.num_classes, Path(folder))
        recipe = problem.recipes()[run.kind]
        small = Steps(replace(recipe, batch_size=2), problem.teacher, images, run.plain)
        small.step()
        before = resident("VmRSS")
        steps = Steps(recipe, problem.teacher, images, run.plain)
        for _ in range(2):
            steps.step()
    return resident("VmHWM") - before


if __name__ == "__main__":
    values = json.loads(sys.argv[1])
    print(grow(Run(Choice(**values.pop("choice")), **values)))
