"""What one CUDA GPU does with d2o, in at most eight minutes and without network: parity, speed, memory, resuming.

python benchmarks/gpu.py --out gpu.json
python benchmarks/gpu.py --data cifar10-32x32.zip --parity arrays --out gpu.json --markdown docs/gpu.md
python benchmarks/gpu.py --rehearse                     every line of it on the processor, at tiny sizes
python benchmarks/gpu.py --parts parity resume          some of it

Each part is a process with its own share of the time; what fails is a row, and the rest goes on (exit code 1). Without
--data, the run at the end learns the built-in shapes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, work
from gpu_tools import Row, Setting

GRACE = 5.0
"""Seconds that a part may take longer than its share before it is ended."""
START = 12.0
"""Seconds that starting a part may take, of its share."""
RESULTS = "## Results"


def measure(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a part as a process, and return its seconds and rows, also of one that had to be ended."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--part", name, "--seconds", str(seconds)]
    command += ["--rehearse"] if options.rehearse else []
    for option in ("parity", "data"):
        command += [f"--{option}", str(value)] if (value := getattr(options, option)) else []
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # which deterministic products want
    environment |= {"OMP_NUM_THREADS": "1"} if options.rehearse else {}  # tiny layers wait for more threads, rather
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        try:
            limit = None if options.rehearse else seconds + GRACE
            done = subprocess.run([*command, "--rows", str(file)], env=environment, timeout=limit, capture_output=True)
            problem = done.stderr.decode(errors="replace").strip()[-300:] if done.returncode not in (0, 1) else None
        except subprocess.TimeoutExpired:
            problem = f"ended after {seconds + GRACE:.0f} s"
        rows: list[Row] = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows += [{"error": problem}] if problem is not None else []
    return {"seconds": round(time.monotonic() - began, 1), "rows": rows}


def draw_table(rows: list[Row]) -> str:
    """Return rows as a table in Markdown, with a column for every name."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def show(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
        return str(value).replace("|", "\\|")

    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    lines += [[show(row[name]) if row.get(name) is not None else "" for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(found: dict[str, Any]) -> str:
    """Return all parts as Markdown."""
    where = ", a rehearsal on a processor" if found["rehearsal"] else ""
    text = [f"`{found['command']}`, {found['seconds']:.0f} s{where}"]
    for name, part in found["parts"].items():
        text.append(f"### {name.capitalize()} ({part['seconds']:.0f} s)\n\n{draw_table(part['rows'])}")
    return "\n\n".join(text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the processor, at tiny sizes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="that all of it may take")
    parser.add_argument("--parity", type=Path, help="a folder with more of the reference's arrays")
    parser.add_argument("--data", help="images of 32x32 for the run, such as CIFAR-10's zip")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    parser.add_argument("--markdown", type=Path, help=f"put the tables below {RESULTS!r} in this file")
    for hidden, kind in (("part", str), ("rows", Path), ("seconds", float)):
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("PyTorch sees no CUDA GPU here: add --rehearse to try everything on the processor.", file=sys.stderr)
        return 2
    if options.part:
        device = torch.device("cpu" if options.rehearse else "cuda")
        end = time.monotonic() + options.seconds - START
        setting = Setting(device, end, options.rehearse, options.parity, options.data)
        return 0 if work(options.part, options.rows, setting) else 1
    began, parts = time.monotonic(), {}
    for number, name in enumerate(options.parts):
        left = options.minutes * 60 - (time.monotonic() - began)
        later = sum(PARTS[one][0] for one in options.parts[number:])
        parts[name] = measure(name, options, left * PARTS[name][0] / later - GRACE)
        print(f"{name}: {parts[name]['seconds']:.0f} s\n{draw_table(parts[name]['rows'])}\n", flush=True)
    seconds = round(time.monotonic() - began, 1)
    failed = [name for name, part in parts.items() if any("error" in row for row in part["rows"])]
    command = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    found = {"command": command, "rehearsal": options.rehearse, "seconds": seconds, "failed": failed, "parts": parts}
    print(f"{seconds:.0f} s; failed: {', '.join(failed) or 'nothing'}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    if options.markdown:
        text = options.markdown.read_text() if options.markdown.exists() else f"{RESULTS}\n"
        options.markdown.write_text(f"{text.partition(RESULTS)[0]}{RESULTS}\n\n{report(found)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
