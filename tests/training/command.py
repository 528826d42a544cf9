"""The command of a short run, and what its result is compared with."""

import json
from pathlib import Path

from d2o.training.run_directory import LOCK

JUDGE = [f"--set=discriminator.{setting}" for setting in ("weights=random", "size=32", "width=16")]
IMAGES, BATCH, SAVE = 240, 8, 16


def arguments(teacher: Path, data: Path, out: Path) -> list[str]:
    options = {"--from": teacher, "--data": data, "--out": out, "--images": IMAGES, "--batch": BATCH}
    options |= {"--save-every": SAVE, "--sample-every": 120, "--recipe": "d2o-f", "--learning-rate": 1e-3}
    return ["finetune", *(str(word) for option in options.items() for word in option), *JUDGE]


def complaint(text: str) -> str:
    """Return the one sentence with which a command has failed."""
    assert "Traceback" not in text, text
    (sentence,) = [line for line in text.splitlines() if line.startswith("d2o: ")]
    return sentence


def assert_same_result(out: Path, finished: Path) -> None:
    for name in ("ema.safetensors", "student.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    lines, expected = (map(json.loads, (f / "metrics.jsonl").read_text().splitlines()) for f in (out, finished))
    assert [line["images"] for line in lines] == [line["images"] for line in expected]
    assert {f.name for f in (out / "samples").iterdir()} == {f.name for f in (finished / "samples").iterdir()}
    assert {file.name for file in out.rglob(".*")} == {LOCK}
