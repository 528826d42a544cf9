"""The model card of an export, a README.md as the Hugging Face hub reads it: what is known of the model, nothing else.

Words of files and users stand in it as quotations, and so do neither end its YAML nor mean anything as Markdown.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import d2o
from d2o.backbones.backbone import Backbone
from d2o.checkpoints import native
from d2o.checkpoints.publication import EXPORT, HUB, TERMS, find_repository, read_fields
from d2o.checkpoints.shipped import SHIPPED
from d2o.diffusion.condition import TextWidth
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, printable
from d2o.files import parse_json, read_bytes

from .one_step import TRIALS
from .usage import describe_usage

LICENCES = f"{HUB}/docs/hub/repositories-licenses"
PAPER = "[D2O](https://arxiv.org/abs/2506.09376)"
LIBRARIES = {"diffusers": "diffusers", "onnx": "onnx", "web": "onnx", "torch": "pytorch"}
"""What loads a form of export, where that is not d2o."""
LONGEST, MOST, LARGEST_RECIPE = 200, 20, 16 << 20
"""Characters of a quotation, quotations of a list, and bytes of a run's recipe.json."""
NUMBERS = {
    "kid": "KID",
    "frechet": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
    "pixel_deviation": "pixel deviation",
}
"""What an evaluation of a run says -> what the card calls it."""


@dataclass(frozen=True)
class Origin:
    """Where an exported model is from, besides its provenance: what its source was called, and its run's own words."""

    source: str = ""
    run: Any = None
    evaluation: Any = None

    @classmethod
    def of(cls, source: str | os.PathLike | None) -> "Origin":
        """Read what stands beside the model in a run directory; a damaged file is as good as none."""
        if source is None:
            return cls()
        run, evaluation = None, None
        with suppress(OSError, ValueError):
            run = parse_json(read_bytes(Path(source) / "recipe.json", LARGEST_RECIPE))
        with suppress(CheckpointError):
            evaluation = native.read_header(Path(source) / "checkpoint.safetensors").get("evaluation")
        return cls(os.fspath(source), run, evaluation)

    @property
    def teacher(self) -> str:
        """The name, path or address of the teacher, as the run was told it; empty where it was not."""
        name = find(self.run, "from")
        return name if isinstance(name, str) else ""


@dataclass(frozen=True)
class Made:
    """What was exported: the form and its name, how far its images are off, and what its user must know."""

    to: str
    path: Path
    name: str
    error: float
    notes: tuple[str, ...]
    base: str | None = None


def check_license(name: str) -> str:
    """Return an identifier of a licence in the hub's spelling; a ValueError for what is none."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", name.lower()):
        raise ValueError(f"{name!r} is not a licence identifier of the hub: use one of {LICENCES}, such as apache-2.0.")
    return name.lower()


def write_card(denoiser: Denoiser, made: Made, origin: Origin, license: str | None = None) -> str:
    """Return the card of an export; without a `license` it has its teacher's, or a field to fill in."""
    terms = {"license": license} if license else find_terms(denoiser, origin)
    lines = [
        "---",
        *write_fields(denoiser, made, origin, terms),
        "---",
        "",
        f"# {quote(made.name)}",
        "",
        describe(denoiser),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in list_facts(denoiser, origin, terms).items() if text),
        "",
        "## Use",
        "",
        *describe_usage(denoiser, made.to, made.path, made.name, made.base or find_base(denoiser, origin)),
        "",
        *(f"- {escape(note)}" for note in made.notes),
        "",
        "## Numbers",
        "",
        f"{TRIALS} images were compared with the model's own, which span -1 to 1: the largest difference is "
        f"{made.error:.1e}.",
        "",
        *describe_evaluation(origin.evaluation),
        f"Written by `d2o export`, d2o {d2o.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def is_card(page: Path) -> bool:
    """Return whether a file is a card that was written here, and so may be written again."""
    return EXPORT in read_fields(page)


def write_fields(denoiser: Denoiser, made: Made, origin: Origin, terms: Mapping[str, str]) -> list[str]:
    import yaml

    fields: dict[str, Any] = {
        **terms,
        "library_name": LIBRARIES.get(made.to, "d2o"),
        "pipeline_tag": "text-to-image" if is_told_text(denoiser) else "unconditional-image-generation",
        "tags": ["d2o", *(["one-step"] if denoiser.one_step else []), made.to],
    }
    if repository := find_base(denoiser, origin):
        fields |= {"base_model": repository}
        fields |= {"base_model_relation": "adapter" if made.to == "delta" else "finetune"}
    fields[EXPORT] = printable(made.name)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=math.inf)
    missing = [] if "license" in terms else [f"license: # to fill in, such as apache-2.0; see {LICENCES}"]
    return [*missing, *text.splitlines()]


def describe(denoiser: Denoiser) -> str:
    channels, height, width = denoiser.image_shape
    what = f"{'images' if denoiser.codec is None else 'latent images'} of {height}x{width}"
    what += f" with {channels} channel{'s' * (channels > 1)}"
    what += f", of {denoiser.num_classes} classes" if denoiser.num_classes else ""
    what += ", conditioned on captions" if is_told_text(denoiser) else ""
    calls = 1 + len(denoiser.middle_sigmas)
    if not denoiser.one_step:
        return f"A diffusion model of {what}, for many steps: in one call its images are blurred."
    return f"A generator of {what}, in {'one network call' if calls == 1 else f'{calls} network calls'}."


def is_told_text(denoiser: Denoiser) -> bool:
    return denoiser.reader is not None or isinstance(denoiser.vocabulary, TextWidth)


def list_facts(denoiser: Denoiser, origin: Origin, terms: Mapping[str, str]) -> dict[str, str]:
    """Return the rows of the card's table; one whose text is empty is not known."""
    recipe = find(denoiser.provenance, "recipe")
    teacher = find(denoiser.provenance, "from") if recipe else denoiser.provenance
    base = find_base(denoiser, origin)
    who = [f"[{base}]({HUB}/{base})"] if base else []
    who += [quote(strip_folders(origin.teacher))] if origin.teacher and not base else []
    data, count, whom = (find(origin.run, "data", part) for part in ("name", "images", "attribution"))
    licence = terms.get("license_name", terms.get("license"))
    kind = getattr(denoiser.backbone, "kind", type(denoiser.backbone).__name__)
    return {
        "teacher" if recipe else "origin": "; ".join([*who, *describe_teacher(teacher)]),
        "method": describe_method(recipe),
        "training": describe_training(recipe),
        "frozen": describe_frozen(denoiser, recipe),
        "discriminator": join(denoiser.judged_by),
        "data": f"{quote(strip_folders(data))}, {number(count)} images" if isinstance(data, str) and count else "",
        "data attribution": join(whom.splitlines()) if isinstance(whom, str) else "",
        "classes": join(denoiser.class_names),
        "network": f"{quote(kind)}, {sum(parameter.numel() for parameter in denoiser.parameters()):,} parameters",
        "licence": quote(licence) if licence else "**to fill in**, as `license` in the first lines of this file",
    }


def describe_teacher(provenance: Any) -> Iterator[str]:
    """Yield what a provenance says of the model: how d2o trained it, or which file it was read from."""
    if recipe := find(provenance, "recipe"):
        yield ": ".join(filter(None, (f"trained with d2o ({describe_method(recipe)})", describe_training(recipe))))
    for name in ("format", "class", "file", "source", "sha256"):
        value = find(provenance, name)
        values = value.values() if isinstance(value, dict) else [value]
        yield from (f"{name} {quote(text)}" for text in values if isinstance(text, str) and text)


def describe_method(recipe: Any) -> str:
    objectives = find(recipe, "objectives")
    kinds = [find(one, "kind") for one in objectives] if isinstance(objectives, list) else []
    if kinds == ["adversarial"] and find(recipe, "pretrained") is True:
        return f"{PAPER}{'-F' * bool(find(recipe, 'frozen'))}: fine-tuned with a GAN loss alone"
    return join(kind for kind in kinds if isinstance(kind, str))


def describe_training(recipe: Any) -> str:
    images, batch = find(recipe, "duration"), find(recipe, "batch_size")
    return f"{number(images)} images, in batches of {number(batch)}" if type(images) is type(batch) is int else ""


def describe_frozen(denoiser: Denoiser, recipe: Any) -> str:
    """Return what was frozen, and its share where all rules are roles of the network."""
    rules, network = find(recipe, "frozen"), denoiser.backbone
    if not isinstance(rules, list) or not rules or not isinstance(network, Backbone):
        return ""
    try:
        sizes = [(network.role(name), parameter.numel()) for name, parameter in network.named_parameters()]
    except ValueError:  # a network that does not tell the roles of its parameters
        return join(rules)
    frozen, total = sum(size for role, size in sizes if role in rules), sum(size for _, size in sizes)
    known = all(rule in [role for role, _ in sizes] for rule in rules)
    return join(rules) + (f": {frozen / total:.1%} of the weights" if known else "")


def describe_evaluation(evaluation: Any) -> Iterator[str]:
    """Yield the table of the newest evaluation of a run, or nothing."""
    values = {name: value for name in NUMBERS if isinstance(value := find(evaluation, name), float)}
    if not values:
        return
    features, seen, count = (find(evaluation, name) for name in ("features", "images", "images_compared"))
    yield (
        f"Latest evaluation of the run, of its averaged student after {number(seen)} images: {number(count)} images "
        f"against the data, in the feature space {quote(features)}."
    )
    yield ""
    yield f"| {' | '.join(NUMBERS[name] for name in values)} |"
    yield "|---" * len(values) + "|"
    yield f"| {' | '.join(f'{value:.4g}' for value in values.values())} |"
    yield ""


def find_terms(denoiser: Denoiser, origin: Origin) -> dict[str, str]:
    """Return the licence of the model or of the nearest of its teachers that has one."""
    for one in walk(denoiser.provenance):
        found = {name: value for name in TERMS if isinstance(value := one.get(name), str) and value}
        if "license" in found:
            return {name: printable(value) for name, value in found.items()}
    return {"license": "apache-2.0"} if {origin.source, origin.teacher} & SHIPPED.keys() else {}


def find_base(denoiser: Denoiser, origin: Origin) -> str | None:
    """Return OWNER/NAME on the hub of the nearest teacher that is known to be there, or of the model itself."""
    places = [origin.teacher, origin.source]
    places += [f"hf://{value}" for one in walk(denoiser.provenance) if isinstance(value := one.get("repository"), str)]
    return next((found for place in places if (found := find_repository(place))), None)


def walk(provenance: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the provenance of a model, of its teacher, of that one's teacher ..."""
    while isinstance(provenance, dict):
        yield provenance
        provenance = provenance.get("from")


def find(tree: Any, *path: str) -> Any:
    """Return what stands at a path of nested records, None where nothing does."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def strip_folders(place: str) -> str:
    """Return the last part of a path or address: where it stands on whose machine is nobody's business."""
    return Path(place.partition("?")[0]).name


def number(value: Any) -> str:
    return f"{value:,}" if type(value) is int and abs(value) < 1e15 else quote(value)


def join(texts: Iterable[Any]) -> str:
    """Return the first texts as quotations."""
    found = list(islice(texts, MOST + 1))
    return ", ".join(map(quote, found[:MOST])) + " ..." * (len(found) > MOST)


def quote(text: Any) -> str:
    """Return a text of whatever content as one span of code in Markdown, also in a table."""
    found = printable(str(text)[: 4 * LONGEST]).strip()[:LONGEST].replace("`", "'").replace("|", r"\|")
    return f"`{found or ' '}`"


def escape(text: str) -> str:
    """Return a sentence of d2o's as Markdown, with no markup but its own spans of code."""
    return re.sub(r"([\\*\[\]<>&|])", r"\\\1", printable(text))
