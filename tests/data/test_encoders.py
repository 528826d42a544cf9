"""Captions are encoded as stock pipelines encode them, by classes of a table, whatever a folder holds."""

import json
import shutil

import pytest
import torch

from d2o.data import encoders
from d2o.data.encoders import Encoders
from d2o.data.text_pipelines import PIPELINES, open_pipeline

from stock_pipelines import PIPELINES as TINY
from stock_pipelines import SHORT, save_pipeline, sd3, sdxl

CAPTIONS = ["red", "a cube, .", ""]
ARGUMENTS = {"device": "cpu", "num_images_per_prompt": 1}
MORE = {"StableDiffusion3Pipeline": {"prompt_2": None, "prompt_3": None}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def find(name, make=None):
        if name not in made:
            made[name] = root / name, save_pipeline(root / name, make or TINY[name])
        return made[name]

    return find


def ask_stock(pipeline, captions, **more):
    """Return what the pipeline tells its network: tokens, mask, pooled vectors, each None where there is none."""
    import inspect

    name = type(pipeline).__name__
    if name == "SanaPipeline" and not more:
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        more = {"complex_human_instruction": instruction}
    if name not in ("FluxPipeline", "QwenImagePipeline"):
        more.setdefault("do_classifier_free_guidance", False)
    answer = pipeline.encode_prompt(prompt=list(captions), **(ARGUMENTS if name != "ZImagePipeline" else {}), **MORE.get(name, {}), **more)
    return list(answer)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_text_is_what_the_stock_pipeline_tells_its_network(name, saved):
    folder, pipeline = saved(name)
    row = PIPELINES[name]
    reader = Encoders(str(folder), row.network)
    told, answer = reader(CAPTIONS), ask_stock(pipeline, CAPTIONS)
    guided = {} if name in ("FluxPipeline", "QwenImagePipeline") else {"do_classifier_free_guidance": True}
    nothing = ask_stock(pipeline, [" " if name == "QwenImagePipeline" else ""], **guided)
    for text, (tokens, mask, pooled), given in (
        (told, row.caption, answer),
        (reader.nothing(3), row.caption if isinstance(row.nothing, str) else row.nothing, nothing),
    ):
        if name == "ZImagePipeline":
            rows = [one[there.bool()] for one, there in zip(text.tokens, text.mask, strict=True)]
            stock = given[tokens] * (len(rows) // len(given[tokens]))
            assert all(torch.equal(*pair) for pair in zip(rows, stock, strict=True))
            assert len({len(one) for one in stock}) == (3 if text is told else 1)
            continue
        wanted = [None if slot is None else given[slot] for slot in (tokens, mask, pooled)]
        for part, stock in zip((text.tokens, text.mask, text.pooled), wanted, strict=True):
            assert (part is None) == (stock is None)
            assert part is None or torch.equal(part, stock.expand_as(part))
    assert len(reader.nothing(3)) == 3
    assert not told.tokens.requires_grad
    assert not torch.equal(told.tokens[0], told.tokens[1])
    assert torch.equal(reader([*CAPTIONS, "red"]).tokens[[0, 3]], told.tokens[[0, 0]])
