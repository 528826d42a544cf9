"""Model cards: their programs run, their fields come back as they were, and no word of a file means anything there."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import d2o
from conftest import make_denoiser
from d2o.checkpoints import native
from d2o.checkpoints.publication import EXPORT, describe_publication, read_fields
from d2o.cli.main import run
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon, Flow
from d2o.export import FORMATS, card, export
from refusal import refused

from .cards import program_of, run_program
from .test_export import DIT, LOW, UNET, make

HOSTILE = [
    'a\n---\nlicense: "mit"\n',
    "x: y # z",
    "<script>alert(1)</script>",
    "` | ![](http://x/p.png) [a](javascript:b) |",
    "```\n# Title\n",
    "&a *a !!python/object/apply:os.system [ls]",
    "\u202eabc\u2028\x1b[31m",
    "w" * 5000,
    "",
]
RECIPE = {
    "objectives": [{"kind": "adversarial"}],
    "pretrained": True,
    "frozen": ["convolution", "projection"],
    "duration": 28_000,
    "batch_size": 64,
}


def student(provenance: dict[str, Any] | None = None, classes: int = 0, **changes: Any) -> Denoiser:
    provenance = {"recipe": RECIPE, "from": {"format": "diffusers"}} if provenance is None else provenance
    return make_denoiser(classes=classes).replace(provenance=provenance, one_step=True, **changes)


def fields_of(page: Path) -> dict[str, Any]:
    """Return the fields of a card, which the hub's client and a YAML parser must read alike."""
    text = page.read_text()
    fields = yaml.safe_load(text.split("---\n")[1])
    known = {name: value for name, value in fields.items() if value is not None}
    assert ModelCard.load(page).data.to_dict() == known
    return fields


def plain(page: Path) -> str:
    """Return what of a card is Markdown: neither fields nor quotations."""
    body = page.read_text().partition("\n---\n")[2]
    return re.sub(r"`[^`\n]+`", "QUOTED", re.sub(r"(?ms)^```.*?^```$", "BLOCK", body))


@dataclass(frozen=True)
class Case:
    """An export whose card has a program: its model, and the name that the program gives its images."""

    model: Denoiser
    to: str
    name: str


CASES = {
    "safetensors": Case(student(), "safetensors", "one step.safetensors"),
    "classes": Case(student(classes=3), "safetensors", "x.safetensors"),
    "many-step": Case(make_denoiser(), "safetensors", "x.safetensors"),
    "delta": Case(student(), "delta", "x.safetensors"),
    "ours": Case(student(classes=3), "diffusers", "folder"),
    "ddim": Case(make(UNET, Epsilon(sigma_max=LOW)), "diffusers", "folder"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_program_on_a_card_makes_images(name, tmp_path, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    if case.to == "delta":
        d2o.save("base.safetensors", make_denoiser(1))
    made = export(case.model, case.name, case.to, base="base.safetensors" if case.to == "delta" else None)
    text = made.card.read_text()
    assert len(re.findall(r"^(?!import|from|$)", program_of(text), re.MULTILINE)) <= 3
    images = run_program(text)
    assert len(images) == (4 if case.to in ("safetensors", "delta") else 1)
    if name == "many-step":
        assert torch.equal(images, next(d2o.generate(case.model, range(4), steps=18)))
    assert f"{made.error:.1e}" in text


def test_words_of_files_mean_nothing_on_a_card(tmp_path):
    for word in HOSTILE:
        recipe: Any = {
            "objectives": [{"kind": word}],
            "frozen": [word, {word: word}],
            "duration": word,
            "batch_size": None,
        }
        provenance = {
            "recipe": recipe,
            "from": {"recipe": word, "format": word, "sha256": {word: word}, "file": [word]},
        }
        model = student(provenance, 2, class_names=(word, "b"), judged_by=(word,))
        made = export(model, tmp_path / "x.safetensors", "safetensors", license="mit")
        fields = fields_of(made.card)
        assert {*fields} == {"license", "library_name", "pipeline_tag", "tags", "d2o_export"}
        assert fields["license"] == "mit" and fields["tags"] == ["d2o", "one-step", "safetensors"]
        text = plain(made.card)
        assert not re.search(r"<|!\[|javascript|Title|alert|python/object|[^\x00-\x7f]|\x1b", text)
        assert re.findall(r"(?m)^#+ .*", text) == ["# QUOTED", "## Use", "## Numbers"]
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.replace(r"\|", "").count("|") == 3 for line in rows)


def test_a_name_with_markup_is_a_name(tmp_path):
    for name in ("a```b.safetensors", "a'\"\\b.safetensors", "--- # x.safetensors", "a\nlicense: mit.safetensors"):
        made = export(student(), tmp_path / name, "safetensors")
        fields = fields_of(made.card)
        assert fields["license"] is None and fields["d2o_export"].replace("\\n", "\n") == name
        loads = re.search(r"d2o\.load\((.*)\)$", program_of(made.card.read_text()), re.MULTILINE)
        assert loads and eval(loads[1]) == name


def test_a_card_tells_what_the_run_knows(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    model = student(classes=2, class_names=("cat", "dog"), judged_by=("vgg",))
    evaluation = {"images": 28_000, "features": "lite2", "images_compared": 1000, "kid": 0.54321, "recall": 0.4}
    spec = {**native.describe(model), "content": "run", "evaluation": evaluation}
    native.write(place / "checkpoint.safetensors", {}, spec)
    data = {"name": "/users/me/pets.zip", "images": 1797, "attribution": "Ann, CC-BY 4.0\n| <b>Bob</b>"}
    (place / "recipe.json").write_text(json.dumps({"from": "/users/me/teacher.pkl", "data": data}))
    made = export(model, tmp_path / "x.safetensors", "safetensors", source=place)
    text = made.card.read_text()
    for known in ("`teacher.pkl`", "`pets.zip`, 1,797 images", "0.5432", "`lite2`", "1,000 images", "`cat`, `dog`"):
        assert known in text
    for known in (r"`Ann, CC-BY 4.0`, `\| <b>Bob</b>`", "28,000 images", "-F: fine-tuned", "`vgg`", "% of the weights"):
        assert known in text
    assert "/users" not in text
    backbone: Any = model.backbone
    sizes = [(backbone.role(name), parameter.numel()) for name, parameter in backbone.named_parameters()]
    frozen = sum(size for role, size in sizes if role in ("convolution", "projection"))
    assert f"{frozen / sum(size for _, size in sizes):.1%}" in text
    (place / "recipe.json").write_text("{")
    assert "pets" not in export(model, tmp_path / "x.safetensors", "safetensors", source=place).card.read_text()


def test_the_licence_is_the_one_asked_for_or_the_nearest_teachers(tmp_path):
    chain = {"recipe": RECIPE, "from": {"recipe": RECIPE, "from": {"license": "openrail", "repository": "a/b"}}}

    def license_of(model: Denoiser, **options: Any) -> dict[str, Any]:
        return fields_of(export(model, tmp_path / "x.safetensors", "safetensors", **options).card)

    found = license_of(student(chain))
    assert found["license"] == "openrail" and found["base_model"] == "a/b"
    assert found["base_model_relation"] == "finetune"
    assert license_of(student(chain), license="MIT")["license"] == "mit"
    assert license_of(student(), source="digits-small")["license"] == "apache-2.0"
    assert license_of(student())["license"] is None
    assert "**to fill in**" in (tmp_path / "x.safetensors.md").read_text()
    with refused("No Licence!", "apache-2.0"):
        export(student(), tmp_path / "y.safetensors", "safetensors", license="No Licence!")


def test_a_folder_of_the_hub_tells_repository_and_licence(tmp_path):
    folder = tmp_path / "models--ab--c.d" / "snapshots" / "0123"
    made = export(make(UNET, Flow(time_scale=1000.0)), folder, "diffusers")
    text = "---\nlicense: other\nlicense_name: own-terms\nlicense_link: LICENSE.md\nx: [1, {a: b}]\n---\n# Hello\n"
    made.card.write_text(text)
    terms = {"license": "other", "license_name": "own-terms"}
    terms["license_link"] = "https://huggingface.co/ab/c.d/blob/main/LICENSE.md"
    assert describe_publication(folder) == {"repository": "ab/c.d", **terms}
    for place in (folder, folder / "unet"):
        again = export(d2o.load(place), tmp_path / "x.safetensors", "safetensors")
        fields = fields_of(again.card)
        assert {name: fields[name] for name in terms} == terms and fields["base_model"] == "ab/c.d"


@pytest.mark.parametrize(
    "fields",
    ["license: " + "[" * 700, "license: &a [*a]", "license: [mit]", "license: {<<: mit}", "- a\n- license: mit", "\t-",
     "license:\n- mit", "license: !!python/object/apply:os.getcwd []", "license: \"a\\nb\"", "license: " + "m" * 5000,
     "license: [mit\n" * 60_000, "x: |\n  license: mit", "license: # none", "license: \"mit", "x" * 2_000_000],
    ids=lambda fields: repr(fields[:20]),
)  # fmt: skip
def test_a_hostile_card_says_nothing(fields, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{fields}\n---\n")
    assert describe_publication(tmp_path) == {}


def test_a_card_belongs_to_its_export(tmp_path, monkeypatch):
    page = tmp_path / "x.safetensors.md"
    page.write_text("my notes")
    with refused(page.name, "another name"):
        export(student(), tmp_path / "x.safetensors", "safetensors")
    assert page.read_text() == "my notes" and len(list(tmp_path.iterdir())) == 1
    page.unlink()
    first = export(student(), tmp_path / "x.safetensors", "safetensors").card.read_text()
    export(student(), tmp_path / "x.safetensors", "safetensors", license="mit")
    assert page.read_text() != first and read_fields(page)["license"] == "mit"

    def fail(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(card, "write_card", fail)
    for to in ("safetensors", "diffusers"):
        with pytest.raises(OSError, match="full"):
            export(student(), tmp_path / f"x{FORMATS[to].suffix}", to)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_of_one_name_have_a_card_each(tmp_path):
    made = {to: export(student(), tmp_path / f"x{FORMATS[to].suffix}", to) for to in ("safetensors", "torch")}
    assert made["safetensors"].card != made["torch"].card
    for to, one in made.items():
        assert read_fields(one.card)[EXPORT] == one.path.name and to in fields_of(one.card)["tags"]


def test_the_command_takes_a_licence_and_names_the_card(tmp_path, capsys):
    d2o.save(tmp_path / "m.safetensors", student())
    words = ["export", str(tmp_path / "m.safetensors"), "--to", "diffusers", str(tmp_path / "out")]
    assert run([*words, "--license", "cc-by-4.0", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["card"] == str(tmp_path / "out" / "README.md")
    assert fields_of(Path(record["card"]))["license"] == "cc-by-4.0"


def test_dit_without_its_codec_is_told_where_one_goes(tmp_path):
    made = export(make(DIT, Epsilon(sigma_max=LOW), 3, 4), tmp_path / "folder", "diffusers")
    assert "vae=AutoencoderKL.from_pretrained" in made.card.read_text()
