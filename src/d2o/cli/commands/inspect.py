"""Describe a checkpoint: its kind, network, size, origin, and what D2O-F would freeze; its weights are not read.

examples:
  d2o inspect edm-cifar10-32x32-uncond-ve.pkl
  d2o inspect runs/one-step --json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2o.checkpoints import inspect
from d2o.cli.options import Model, StateDictOptions, parse
from d2o.diffusion.noise import name_level
from d2o.errors import printable
from d2o.records import shorten
from d2o.training.freezing import default_rules, freeze, measure_shares


@dataclass(frozen=True, kw_only=True)
class Inspect(StateDictOptions):
    """The options of `d2o inspect`."""

    model: Model
    """A file, a folder, or an address (https://, hf://)."""
    key: str = "ema"
    """The network in a file with several: ema, net; or the variant of a diffusers folder: fp16, non_ema ..."""
    sha256: str | None = None
    """The hash that the file must have."""
    num_heads: int | None = None
    """Attention heads of a DiT state dict with an unpublished width, which does not show them."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o inspect`."""
    options = parse(Inspect, "inspect", arguments, __doc__)
    given = {name: value for name, value in vars(options).items() if name not in ("model", "json")}
    found = inspect(options.model, **given)
    record = found.as_dict()
    try:
        roles = default_rules(found.denoiser)
        share = freeze(found.denoiser, roles)
        counts = {"frozen": share.frozen, "total": share.total, "share": share.frozen / share.total}
        record["d2o_f"], frozen = {"roles": list(roles), **counts}, f"{' and '.join(roles)}: {share}"
    except ValueError as error:
        record["d2o_f"], frozen = None, str(error)
    record["shares"] = measure_shares(found.denoiser)
    record["frozen_share"] = record["d2o_f"] and record["d2o_f"]["share"]
    print(json.dumps(record, indent=2) if options.json else table(record, frozen))


def table(record: dict[str, Any], frozen: str) -> str:
    shape, names = " x ".join(map(str, record["image_shape"])), record["class_names"]
    rows = {
        "kind": record["kind"],
        "class": record["class"],
        "images": f"{shape}, {record['num_classes'] or 'no'} classes" + (f": {shorten(names)}" if names else ""),
        "parameters": f"{record['parameters']:,}",
        "d2o-f freezes": frozen,
        "shares": ", ".join(f"{role} {share:.1%}" for role, share in record["shares"].items()),
        "sampling": describe_sampling(record),
        "sha256": record["sha256"] or "-",
        **{
            name: settings(record[name]) or "-"
            for name in ("configuration", "preconditioning", "assumed", "provenance")
        },
    }
    return "\n".join([printable(record["path"]), *(f"  {name:<16} {printable(value)}" for name, value in rows.items())])


def describe_sampling(record: dict[str, Any]) -> str:
    clip = "" if record["clip"] is None else f", estimates clipped to {record['clip']:g}"
    return f"family {record['family']}, from {name_level(record['start'])}{clip}"


def settings(values: dict[str, Any]) -> str:
    texts = {name: str(value) for name, value in values.items()}
    return ", ".join(f"{name} {text if len(text) < 80 else text[:77] + '...'}" for name, text in texts.items())
