"""Upload an export to the Hugging Face hub, with its model card, which must name a licence.

examples:
  d2o push student.safetensors me/student
  d2o push folder me/student --private --message "After 20,000 images"
  d2o push folder me/student --dry-run
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from d2o.cli.options import parse, tell
from d2o.cli.progress import say
from d2o.export.push import check_repository, list_files, push


@dataclass(frozen=True, kw_only=True)
class Push:
    """The options of `d2o push`."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """A file or folder that d2o export wrote."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository on the hub; created if it does not exist."""
    private: bool = False
    """Make it visible only to you or your organisation."""
    message: str | None = None
    """The commit message."""
    revision: str | None = None
    """An existing branch to commit to; by default main."""
    dry_run: bool = False
    """Check and list what would be uploaded, without uploading."""
    json: bool = False
    """Print JSON instead of text."""


def main(arguments: Sequence[str]) -> None:
    """Run `d2o push`."""
    options = parse(Push, "push", arguments, __doc__)
    check_repository(options.repository)
    files = {name: file.stat().st_size for name, file in list_files(Path(options.path)).items()}
    total = f"{len(files)} files, {sum(files.values()) / 1e6:.2f} MB"
    record = {"repository": options.repository, "files": files, "commit": None}
    if options.dry_run:
        lines = [f"{options.repository} would get {total}:", *(f"  {name}  {size:,}" for name, size in files.items())]
    else:
        say(f"Pushing {total} to {options.repository}.")
        given = {name: getattr(options, name) for name in ("private", "message", "revision")}
        record["commit"] = push(options.path, options.repository, **given)
        lines = [f"{options.repository}: {record['commit']}"]
    tell(record, "\n".join(lines), options.json)
