"""Send an export to the Hugging Face hub, with its card: which files, whether they may go, and what refusals mean."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2o.checkpoints import inspect
from d2o.checkpoints.publication import CARD, EXPORT, HUB, find_card, read_fields
from d2o.errors import CheckpointError, printable
from d2o.fetch import OFFLINE_VARIABLES, is_offline

PAGE = ("index.html", "model.json", "model.onnx")
"""The files by which an exported page is known."""
PIPELINE = "model_index.json"
PROGRAMS = (".onnx", ".pt2")
MOST = 10_000
"""Files of a folder."""
MEANINGS = {
    401: "it does not accept your token; `hf auth login` stores another one",
    403: "your token may not write there; take one with write access, or another owner",
    404: "there is no such repository or revision visible to your token; check owner, name and --revision",
    409: "another change is in progress; try again in a minute",
    429: "there were too many requests; try again in some minutes",
}
"""Answers of the hub -> what they mean and the remedy."""


def list_files(path: Path) -> dict[str, Path]:
    """Return what a push sends, by the names in the repository; a ValueError for what is no export with its card.

    The card must name a licence.
    """
    card = find_card(path, path.is_dir())
    if path.is_dir():
        files = list_folder(path)
    elif path.is_file():
        description = path.with_suffix(".json")
        files = {path.name: path, CARD: card}
        files |= {description.name: description} if path.suffix == ".safetensors" and description.is_file() else {}
    else:
        raise CheckpointError(f"There is nothing at {path}: name a file or folder that d2o export wrote.")
    check_model(path)
    check_card(path, card)
    return files


def list_folder(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_symlink():
            raise ValueError(f"{file} is a link, and might point to private data: replace it with the file itself.")
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = file
        if len(files) > MOST:
            raise ValueError(f"{folder} has more than {MOST:,} files, so it is not an export: name the export itself.")
    return files


def check_model(path: Path) -> None:
    """Raise a ValueError for what d2o neither reads nor writes."""
    if path.is_dir() and not (path / PIPELINE).is_file():
        if not all((path / name).is_file() for name in PAGE):
            raise CheckpointError(f"{path} is not a folder that d2o export wrote: export the model first.")
    elif path.suffix not in PROGRAMS:
        inspect(path)


def check_card(path: Path, card: Path) -> None:
    fields = read_fields(card)
    again = "write it again with d2o export --license ID"
    if not card.is_file():
        raise CheckpointError(f"{path} has no model card {card}: {again}.")
    if not path.is_dir() and (of := fields.get(EXPORT)) not in (None, printable(path.name)):
        raise CheckpointError(f"{card} is the card of {of}, not of {path.name}: {again}, under another name.")
    if "license" not in fields:
        raise CheckpointError(f"{card} names no licence: fill in its field `license`, or {again}.")


def push(
    path: str | os.PathLike,
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
) -> str:
    """Send an exported file or folder to OWNER/NAME on the hub, in one commit, and return the commit's address.

    The repository is made where there is none. Whatever is wrong with the export, the token or the hub's answer is a
    ValueError of one sentence.
    """
    files = list_files(Path(path))
    check_repository(repository)
    if is_offline():
        raise ValueError(f"{' or '.join(OFFLINE_VARIABLES)} is set, so nothing is pushed: unset it.")
    import huggingface_hub as hub

    if hub.get_token() is None:
        raise ValueError("There is no token of the Hugging Face hub: `hf auth login` stores one, or set HF_TOKEN.")
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT", HUB).rstrip("/"))
    added = [hub.CommitOperationAdd(name, file) for name, file in files.items()]
    with explain(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise CheckpointError(f"{repository} is public: make it private on the hub, or leave --private out.")
        words = message or f"Push {Path(path).name} with d2o"
        return api.create_commit(repository, added, commit_message=words, revision=revision).commit_url


def check_repository(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"{printable(name)} is not a repository name of the hub: write OWNER/NAME.")


@contextmanager
def explain(repository: str) -> Iterator[None]:
    """Turn the hub's refusals, and what keeps one from reaching it, into a ValueError of one sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    broken: Any = (OSError, *HfHubHTTPError.__bases__)  # among them that of its HTTP client's errors, whichever it is
    try:
        yield
    except CheckpointError:
        raise
    except HfHubHTTPError as error:
        code = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        meaning = MEANINGS.get(code, f"{printable(said)[:200].rstrip('.')}; try again later")
        raise CheckpointError(f"The hub refuses {repository} with {code}: {meaning}.") from error
    except broken as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
        raise CheckpointError(f"The hub cannot be reached ({reason}): connect to the network and try again.") from error
    except (LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise CheckpointError(f"The hub does not accept {repository}: {reason}.") from error
