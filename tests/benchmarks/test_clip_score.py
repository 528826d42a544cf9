"""The CLIP score of images and prompts is a CLIP model's own cosine; diversity is that of images of one prompt."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import needs
from d2o.data.datasets import open_images
from d2o.data.files import write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from clip_score import score

PROMPTS = ["a cat", "a dog", "a red cat", "a red dog", "a goat"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny CLIP of random weights, with a tokenizer of a few letters."""
    transformers = needs.package("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = ["<|startoftext|>", "<|endoftext|>", *"abcdegort", *(f"{letter}</w>" for letter in "abcdegort")]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**layers, "vocab_size": len(letters), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**layers, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        transformers.CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return folder


def test_the_score_is_the_models_own_cosine(clip: Path, tmp_path: Path) -> None:
    transformers = needs.package("transformers")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    pixels[5] = pixels[0]  # the first prompt is shown twice alike
    write_images(str(tmp_path / "images.zip"), [pixels])
    found = score(open_images(tmp_path / "images.zip"), PROMPTS, clip, batch=4)

    model, processor = transformers.CLIPModel.from_pretrained(clip), transformers.CLIPProcessor.from_pretrained(clip)
    inputs = processor(text=PROMPTS * 2, images=list(pixels), return_tensors="pt", padding=True)
    with torch.no_grad():
        answer = model(**inputs)
    cosines = torch.nn.functional.cosine_similarity(answer.image_embeds, answer.text_embeds)
    assert found["clip_score"]["mean"] == pytest.approx(100 * cosines.mean().item(), abs=1e-3)
    assert found["clip_score"]["low"] < found["clip_score"]["mean"] < found["clip_score"]["high"]
    apart = 1 - torch.nn.functional.cosine_similarity(answer.image_embeds[:5], answer.image_embeds[5:])
    assert apart[0] == pytest.approx(0, abs=1e-5)
    assert found["diversity_within_prompt"]["mean"] == pytest.approx(apart.mean().item(), abs=1e-5)
    assert (found["images"], found["prompts"]) == (10, 5)


def test_one_image_a_prompt_has_no_diversity(clip: Path, tmp_path: Path) -> None:
    write_images(str(tmp_path / "images.zip"), [np.zeros((2, 16, 16, 3), np.uint8)])
    found = score(open_images(tmp_path / "images.zip"), PROMPTS, clip)
    assert found["diversity_within_prompt"] is None
    assert found["clip_score"]["low"] is None
