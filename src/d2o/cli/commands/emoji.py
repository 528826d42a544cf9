"""Write captioned pictures of emoji to a zip, from npm packages.

examples:
  d2o emoji --out emoji.zip
  d2o emoji --styles noto,twemoji --groups smileys --size 64 --out smileys.zip
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from d2o.cli.options import parse, tell, write_command
from d2o.cli.progress import counted, say
from d2o.data.emoji import GROUPS, STYLES, build
from d2o.planning.table import CAPTIONED


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """The options of `d2o emoji`."""

    out: str
    """FILE.zip to write, to use as `--data`; --split val and test are held out."""
    packages: str = "node_modules"
    """The folder in which npm installed the packages."""
    size: Literal[32, 64] = 32
    """Side length in pixels."""
    styles: Annotated[str, tyro.conf.arg(metavar="noto,twemoji,fluent")] = ",".join(STYLES)
    """Styles to write; fluent needs resvg-py."""
    groups: Annotated[str, tyro.conf.arg(metavar="smileys,people,...")] = ",".join(GROUPS)
    """Groups of emoji to write."""
    one_tone: bool = False
    """Leave out skin tones: about 5,300 pictures instead of 10,600."""
    seed: int = 0
    """Seed of the held-out splits."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o emoji`."""
    options = parse(Emoji, "emoji", arguments, __doc__)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed {options.seed} is not possible: take a whole number from 0 to 2^63 - 1.")
    styles, groups = ([name.strip() for name in names.split(",")] for names in (options.styles, options.groups))
    how = {"styles": styles, "groups": groups, "tones": not options.one_tone, "seed": options.seed, "counted": counted}
    counts = build(options.packages, options.out, size=options.size, **how)
    told = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
    tell({**asdict(options), "splits": dict(counts)}, f"{options.out}: {told}", options.json)
    given = {"data": options.out, **CAPTIONED.pretrain.options, "out": "runs/emoji"}
    say(f"Next: {write_command('pretrain', given)}")
