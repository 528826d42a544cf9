"""Captions are encoded as stock pipelines encode them, by classes of a table, whatever a folder holds."""

import inspect
import json
import shutil
import warnings
from functools import partial
from typing import Any

import pytest
import torch

import d2o
from d2o.backbones.text_to_image import NETWORKS, fold, unfold
from d2o.checkpoints import native
from d2o.diffusion.condition import Words, pad
from d2o.diffusion.sampling import draw, streams
from d2o.encoders.captions import Encoders
from d2o.encoders.text_encoders import open_pipeline
from d2o.encoders.text_pipelines import PIPELINES
from d2o.records import validate
from stock_pipelines import PIPELINES as TINY
from stock_pipelines import SHORT, SIDE, clip_tokenizer, save_pipeline, sd3, sdxl

CAPTIONS = ["red", "a cube, .", ""]
close = partial(torch.testing.assert_close, rtol=0, atol=3e-6)
"""Products of matrices are rounded by where they lie in memory."""
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
    name = type(pipeline).__name__
    if name == "SanaPipeline" and not more:
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        more = {"complex_human_instruction": instruction}
    if name not in ("FluxPipeline", "QwenImagePipeline"):
        more.setdefault("do_classifier_free_guidance", False)
    answer = pipeline.encode_prompt(
        prompt=list(captions), **(ARGUMENTS if name != "ZImagePipeline" else {}), **MORE.get(name, {}), **more
    )
    return list(answer)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_text_is_what_the_stock_pipeline_tells_its_network(name, saved):
    folder, pipeline = saved(name)
    row = PIPELINES[name]
    reader = Encoders(str(folder), row.network)
    told: Any = reader(CAPTIONS)
    answer = ask_stock(pipeline, CAPTIONS)
    absent: Any = reader.nothing(3)
    guided = {} if name in ("FluxPipeline", "QwenImagePipeline") else {"do_classifier_free_guidance": True}
    nothing = ask_stock(pipeline, [" " if name == "QwenImagePipeline" else ""], **guided)
    for text, (tokens, mask, pooled), given in (
        (told, row.caption, answer),
        (absent, row.caption if isinstance(row.nothing, str) else row.nothing, nothing),
    ):
        if name == "ZImagePipeline":
            rows = [one[there.bool()] for one, there in zip(text.tokens, text.mask, strict=True)]
            stock = given[tokens] * (len(rows) // len(given[tokens]))
            for one, other in zip(rows, stock, strict=True):
                close(one, other)
            assert len({len(one) for one in stock}) == (3 if text is told else 1)
            continue
        wanted = [None if slot is None else given[slot] for slot in (tokens, mask, pooled)]
        for part, stock in zip((text.tokens, text.mask, text.pooled), wanted, strict=True):
            assert (part is None) == (stock is None)
            if part is not None:
                close(part, stock.expand_as(part))  # pyright: ignore[reportOptionalMemberAccess]
    assert len(reader.nothing(3)) == 3
    assert not told.tokens.requires_grad
    assert not torch.equal(told.tokens[0], told.tokens[1])
    again = reader([*CAPTIONS, "red"])
    assert torch.equal(again.tokens[0], again.tokens[3])


@pytest.mark.parametrize("name", [name for name in TINY if NETWORKS[PIPELINES[name].network].masked])
@torch.no_grad()
def test_masked_networks_see_nothing_beyond_the_end_of_a_caption(name, saved):
    model: Any = d2o.load(saved(name)[0], config={"sample_size": SIDE})
    whole = model.reader(CAPTIONS)
    short = pad([tokens[there.bool()] for tokens, there in zip(whole.tokens, whole.mask, strict=True)])
    x = torch.randn(3, *model.image_shape, generator=torch.Generator().manual_seed(0))
    close(model(x, 2.0, short), model(x, 2.0, whole))
    assert not torch.allclose(model(x, 2.0, short), model(x, 2.0, short[[2, 1, 0]]), atol=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_tables_agree_on_whom_padding_is_hidden_from(network):
    assert Encoders("", network).masked == NETWORKS[network].masked


@pytest.mark.parametrize(("make", "zeros"), [(sdxl, True), (lambda: sdxl(zeros=False), False)])
def test_sdxl_is_told_zeros_for_no_caption_where_its_pipeline_says_so(make, zeros, tmp_path):
    save_pipeline(tmp_path, make)
    nothing: Any = Encoders(str(tmp_path), "UNet2DConditionModel").nothing(2)
    assert (nothing.tokens.abs().max() == 0) == (nothing.pooled.abs().max() == 0) == zeros


@torch.no_grad()
def test_sd3_does_without_its_largest_encoder(tmp_path):
    stock = save_pipeline(tmp_path, lambda: sd3(with_t5=False))
    told, answer = Encoders(str(tmp_path), "SD3Transformer2DModel")(CAPTIONS), ask_stock(stock, CAPTIONS)
    close(told.tokens, answer[0])
    close(told.pooled, answer[2])
    assert told.tokens.shape[1] == SHORT + 256
    assert told.tokens[:, SHORT:].abs().max() == 0


def test_what_is_beyond_the_limit_of_an_encoder_is_cut_with_a_warning(saved):
    reader = Encoders(str(saved("StableDiffusionPipeline")[0]), "UNet2DConditionModel")
    whole = " ".join("a" * (SHORT - 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = reader([whole])
    with pytest.warns(UserWarning, match=f"{SHORT} tokens: 7 of .*1 more") as caught:
        cut = reader([whole, whole + " b b b", whole + " c c c c c c c"])
    assert len(caught) == 1
    close(cut.tokens, told.tokens.expand_as(cut.tokens))


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_is_wrong_with_a_folder_is_said_in_one_sentence(saved, tmp_path):
    def refuse(*hints, captions=("red",)):
        open_pipeline.cache_clear()
        with pytest.raises(ValueError) as caught:
            Encoders(str(folder), "UNet2DConditionModel")(captions)
        sentence = str(caught.value)
        assert all(hint in sentence for hint in hints), sentence
        assert "\n" not in sentence
        shutil.rmtree(folder)
        shutil.copytree(original, folder)

    original, folder = saved("StableDiffusionPipeline")[0], tmp_path / "model"
    shutil.copytree(original, folder)
    refuse("no captions", captions=[])
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
        refuse(str(folder / part), "download")
    edit(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    refuse("StableDiffusionInpaintPipeline", "StableDiffusionXLPipeline")
    edit(folder / "model_index.json", text_encoder=["os", "system"])
    refuse("text_encoder", "system", "CLIPTextModel")
    edit(folder / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])
    refuse("AutoTokenizer", "CLIPTokenizer")
    (folder / "model_index.json").write_text("[" * 100_000)
    refuse("model_index.json")
    config = folder / "text_encoder/config.json"
    edit(config, model_type="bert", auto_map={"AutoModel": "evil.Model"})
    refuse("bert")
    edit(config, num_hidden_layers=100_000)
    refuse("100,000 layers")
    edit(config, hidden_size=1 << 20, intermediate_size=1 << 20)
    refuse("bytes")
    edit(config, num_hidden_layers=3)  # the third has no weights
    refuse("text_encoder", "cannot be opened")
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=1 << 40)
    refuse("tokens")
    (folder / "text_encoder/model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    refuse("text_encoder", "cannot be opened")
    clip_tokenizer(first=1000).save_pretrained(folder / "tokenizer")
    refuse("cannot read captions")
    for file in (folder / "tokenizer").iterdir():
        file.write_bytes(b"{}")
    refuse("tokenizer", "cannot be opened")
    open_pipeline.cache_clear()


def test_the_record_travels_with_a_model_and_opens_nothing(tmp_path):
    reader = Encoders("nowhere", "FluxTransformer2DModel", ("a", "b"), precision="bfloat16")
    assert Encoders(**reader.to_spec()) == Encoders("nowhere", "FluxTransformer2DModel", ("a", "b"))
    for wrong in ({"examples": []}, {"network": 3}, {"kind": "words"}, {"more": 1}):
        with pytest.raises(ValueError):
            Encoders(**{**reader.to_spec(), **wrong})
        with pytest.raises(ValueError, match="description"):
            spec = {"image_shape": [4, 8, 8], "num_classes": 0, "reader": {**reader.to_spec(), **wrong}}
            validate(native.Fields, spec, "its description", {"words": Words, "encoders": Encoders})


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_call_for_a_caption_makes_what_the_stock_pipeline_makes(name, guidance, saved):
    folder, stock = saved(name)
    model = d2o.load(folder, config={"sample_size": SIDE})
    (image,) = d2o.generate(model, [0], condition="a red square", guidance=guidance)
    assert image.shape == (1, 3, 2 * SIDE, 2 * SIDE)
    (latents,) = d2o.generate(model.replace(codec=None), [0], condition="a red square", guidance=guidance)
    noise = draw(streams([0]), model.image_shape, torch.device("cpu"))
    asked = {"height": 2 * SIDE, "width": 2 * SIDE, "num_inference_steps": 1, "output_type": "latent"}
    if name == "FluxPipeline":  # whose guidance_scale is told to the network, and whose negative prompt must be named
        asked |= {"true_cfg_scale": guidance, "negative_prompt": "", "latents": fold(noise)}
        made = unfold(stock("a red square", **asked).images, noise)
    else:
        made = stock("a red square", guidance_scale=guidance, latents=noise, **asked).images
    torch.testing.assert_close(latents, made, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "PixArtAlphaPipeline"])
def test_captions_reach_the_models_of_pipelines(name, saved, tmp_path):
    model = d2o.load(saved(name)[0])
    d2o.save(tmp_path / "model.safetensors", model)
    again = d2o.load(tmp_path / "model.safetensors")
    assert again.reader == model.reader == Encoders(str(saved(name)[0]), PIPELINES[name].network)
    first, second = (next(d2o.generate(again, [0], condition=one)) for one in ("red", "blue"))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, next(d2o.generate(model, [0], condition=["red"])), rtol=0, atol=1e-4)
