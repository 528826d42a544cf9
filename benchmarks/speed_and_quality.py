"""What the defaults that change the mathematics for speed do to quality, in two seeds each.

python benchmarks/speed_and_quality.py --digits-teacher digits-teacher
python benchmarks/speed_and_quality.py --data cifar10-train-32x32.zip --teacher cifar10-small-teacher

Runs that are done are skipped. Every row is written to benchmarks/results/speed_and_quality.json; started twice, it
works on two rows at once. KID, recall and deviation are in lite2 features and pixels, of 2,000 images (digits: 900).
"""

import argparse
import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from d2o.files import atomic

RESULTS = Path(__file__).parent / "results" / "speed_and_quality.json"


def discriminator_options(**fields: int) -> list[str]:
    """Return the options that change fields of the discriminator."""
    return [word for name, value in fields.items() for word in ("--set", f"discriminator.{name}={value}")]


PLAIN = ["--set", "objectives.0.fresh_fakes=true"]
VARIANTS = {
    "digits": {
        "default": [],
        "fresh fakes": PLAIN,
        "64 px": discriminator_options(size=64, width=64),
        "64 px, heads 128 wide": discriminator_options(size=64, width=128),
    },
    "cifar10": {
        "default (48 px, heads 64 wide)": [],
        "fresh fakes": PLAIN,
        "heads 32 wide": discriminator_options(width=32),
        "32 px": discriminator_options(size=32),
        "64 px, heads 128 wide": discriminator_options(size=64, width=128),
    },
}
SEEDS = (0, 1)
IMAGES = {"digits": 14_000, "cifar10": 7_000}


def command(problem: str, options: argparse.Namespace, extra: list[str], seed: int, out: Path) -> list[str]:
    """Return the command of one run."""
    if problem == "digits":
        data = ["--from", options.digits_teacher, "--data", "digits", "--recipe", "digits-d2o-f"]
        judged = ["--evaluate-images", "900"]
    else:
        data = ["--from", options.teacher, "--data", options.data, "--resolution", "16", "--resize", "area"]
        data += ["--recipe", "cifar10-small-d2o-f"]
        judged = ["--evaluate-images", "2000"]
    images = ["--images", str(IMAGES[problem]), "--evaluate-every", str(IMAGES[problem])]
    return ["d2o", "finetune", *data, *images, *judged, "--seed", str(seed), "--out", str(out), *extra]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits-teacher")
    parser.add_argument("--data")
    parser.add_argument("--teacher")
    parser.add_argument("--runs", type=Path, default=Path("runs/speed_and_quality"))
    options = parser.parse_args()
    wanted = (["digits"] if options.digits_teacher else []) + (["cifar10"] if options.data and options.teacher else [])
    if not wanted:
        parser.error("give --digits-teacher, or --data and --teacher")
    for folder in (options.runs, RESULTS.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for problem in wanted:
        for seed in SEEDS:
            for variant, extra in VARIANTS[problem].items():
                out = options.runs / f"{problem}-{variant.replace(' ', '-')}-{seed}"
                with (options.runs / f"{out.name}.lock").open("w") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:  # another process works on it
                        continue
                    run(problem, variant, seed, command(problem, options, extra, seed, out), out)


def run(problem: str, variant: str, seed: int, words: list[str], out: Path) -> None:
    """Train, unless that is done, and write the row."""
    if not (out / "ema.safetensors").exists():
        print(shlex.join(words), flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", *words], check=True, env=environment)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = next(line["evaluation"] for line in reversed(lines) if "evaluation" in line)
    row = {
        "problem": problem,
        "variant": variant,
        "seed": seed,
        "images": lines[-1]["images"],
        "features": found["features"],
        "images_compared": found["images_compared"],
        "kid": found["kid"],
        "recall": found["recall"],
        "deviation_within": found["pixel_deviation_within"],
        "seconds": lines[-1]["seconds"],
        "command": shlex.join([Path(word).name if "/" in word else word for word in words]),
    }
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        key = (problem, variant, seed)
        rows = [other for other in rows if (other["problem"], other["variant"], other["seed"]) != key]
        with atomic(RESULTS) as temporary:
            temporary.write_text(json.dumps(sorted([*rows, row], key=str), indent=1) + "\n")


if __name__ == "__main__":
    main()
