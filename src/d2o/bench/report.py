"""Show the figures of a bench: as tables, as a file, as a plot, and beside those of an earlier run."""

import json
from pathlib import Path
from typing import Any

from d2o.files import atomic

TARGETS = {  # what each ratio should reach on two processor cores
    "d2o_f_step": 3.0, "pretrain_step": 2.0, "sampling": 30.0, "engine_batch1": 2.0, "evaluation": 0.9,
}  # fmt: skip
SENTENCES = {
    "d2o_f_step": "D2O-F training step, plain / ours",
    "d2o_f_first_pass_step": "D2O-F training step in the first pass over the data, plain / ours",
    "d2o_first_pass_step": "D2O training step in the first pass over the data, plain / ours",
    "d2o_step": "D2O training step, plain / ours",
    "pretrain_step": "pre-training step, plain / ours",
    "sampling": "images a second on disk, student in 1 call / teacher in 35",
    "engine_batch1": "images a second one at a time, fastest engine / eager",
    "engine_batch64": "images a second 64 at a time, fastest engine / eager",
    "evaluation": "images a second, a pass of an evaluation / its feature network alone",
}


def read(path: str) -> dict[str, Any]:
    """Return the figures of an earlier run; a ValueError names a file that holds none."""
    try:
        found = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path} to compare with: write one with d2o bench --out {path}.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the figures of d2o bench: give a file that --out wrote.") from error
    rates = found.get("images_per_second") if isinstance(found, dict) else None
    if not isinstance(rates, dict) or not all(isinstance(rate, int | float) for rate in rates.values()):
        raise ValueError(f"{path} holds no figures of d2o bench: give a file that --out wrote.")
    return found


def compare(found: dict[str, Any], earlier: dict[str, Any]) -> dict[str, float]:
    """Return how many times as fast things are now, by the names of images a second that both have."""
    before = earlier["images_per_second"]
    return {name: rate / before[name] for name, rate in found["images_per_second"].items() if before.get(name)}


def differences(found: dict[str, Any], earlier: dict[str, Any]) -> list[str]:
    """Return in which settings, and in what of the machine, two runs differ, a sentence each; speeds differ anyway."""
    pairs = [
        (key, found[kind][key], earlier.get(kind, {}).get(key))
        for kind in ("settings", "machine")
        for key in found[kind]
        if key != "peak_gflops"
    ]
    return [f"Compared with a run of another {key}: {old}, now {new}." for key, new, old in pairs if new != old]


def write(path: str, found: dict[str, Any]) -> None:
    """Write the figures, and a plot of where the time of training goes beside them."""
    with atomic(Path(path)) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n")
    with atomic(Path(path).with_suffix(".png")) as temporary:
        plot(found, temporary)


def show(found: dict[str, Any], earlier: dict[str, Any] | None = None) -> None:
    """Print the figures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 120)
    here = found["machine"]
    console.print(
        f"{here['processor']}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}; "
        f"products of matrices reach {here['peak_gflops']:.0f} GFLOP/s. Batch {found['settings']['batch']}, "
        f"{found['settings']['parameters']:,} parameters, medians of {found['settings']['repeats']}."
    )
    kinds = list(found["parts"])
    parts = dict.fromkeys(part for kind in kinds for part in found["parts"][kind])
    table = Table("milliseconds an image", *kinds, title="Training, by part")
    for part in parts:
        row = [found["parts"][kind].get(part) for kind in kinds]
        table.add_row(part, *("" if value is None else f"{1000 * value:.2f}" for value in row))
    console.print(table)

    faster = compare(found, earlier) if earlier else {}
    columns = ("images/s", "spread", "GFLOP/image", "of peak", *(("earlier", "now / earlier") if earlier else ()))
    table = Table("", *columns)
    for name, rate in found["images_per_second"].items():
        spread, share = found["spread"].get(name), found["peak_share"].get(name)
        needed = found.get("gigaflop_an_image", {}).get(name)
        row = [name, f"{rate:,.1f}", "" if spread is None else f"{spread:.0%}"]
        row += ["" if needed is None else f"{needed:.2f}", "" if share is None else f"{share:.0%}"]
        if earlier:
            old = earlier["images_per_second"].get(name)
            row += [f"{old:,.1f}", f"{faster[name]:.2f}"] if name in faster else ["", ""]
        table.add_row(*row)
    console.print(table)
    table = Table("ratio", "is", "wanted")
    for name, ratio in found["ratio"].items():
        target = TARGETS.get(name)
        table.add_row(SENTENCES.get(name, name), f"{ratio:.2f}", "" if target is None else f"{target:g}")
    for name, ratio in found["memory_ratio"].items():
        table.add_row(f"memory, {name} / plain d2o", f"{ratio:.2f}", "0.6")
    console.print(table)
    if found["memory_mib"]:
        console.print("Peak memory, MiB: " + ", ".join(f"{k} {v:,.0f}" for k, v in found["memory_mib"].items()))
    for name, seconds in found.get("seconds", {}).items():
        console.print(f"{name.replace('_', ' ')}: {seconds:.1f} s, spread {found['spread'].get(name, 0):.0%}")
    for note in found["notes"]:
        console.print(note)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the milliseconds an image of every kind of training, part by part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(found["parts"])[::-1]
    parts = dict.fromkeys(part for kind in kinds for part in found["parts"][kind] if part != "iteration")
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(kinds) + 1.4), layout="constrained")
    left = dict.fromkeys(kinds, 0.0)
    for colour, part in zip(plt.get_cmap("tab10").colors, parts, strict=False):  # type: ignore[attr-defined]
        widths = [1000 * found["parts"][kind].get(part, 0.0) for kind in kinds]
        axes.barh(kinds, widths, left=list(left.values()), color=colour, label=part)
        left = {kind: left[kind] + width for kind, width in zip(kinds, widths, strict=True)}
    axes.set_xlabel("milliseconds an image")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, format="png", dpi=150)
    plt.close(figure)
