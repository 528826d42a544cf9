"""Encodings take the place of images, of the codec's encoder and of text encoders, and are never another model's."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import d2o
from autoencoders import save_autoencoder
from conftest import make_denoiser
from d2o.cli.main import run
from d2o.data import encoding
from d2o.data.encodings import Encodings, open_shard
from d2o.data.files import to_float, to_uint8
from d2o.encoders.codec import Autoencoder

from .encoded import CAPTIONS, COUNT, MASKED, WHOLE, data, encoded, load, open_images, small_shards

__all__ = ["data", "encoded", "small_shards"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [MASKED, WHOLE])
@torch.no_grad()
def test_the_stream_is_that_of_the_images(name, encoded, data):
    pipeline, out = encoded(name)
    model, images, encodings = load(pipeline), open_images(data), open_images(out)
    told = encodings.attach(model)
    options = {"seed": 3, "start": 7}
    for _, ours, theirs in zip(range(4), encodings.batches(6, **options), images.batches(6, **options), strict=False):
        assert ours.captions == theirs.captions
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.number, theirs.number)
        assert torch.equal(ours.label, theirs.label)
        assert ours.x0 is None
        torch.testing.assert_close(ours.latents, model.encode(theirs.x0), rtol=0, atol=1e-5)
        short, whole = told.reader(ours.captions), model.reader(theirs.captions)
        length = short.tokens.shape[1]
        if name == MASKED:  # true lengths, to the longest of the batch
            assert length == int(whole.mask.sum(1).max()) < whole.tokens.shape[1]
            assert torch.equal(short.mask, whole.mask[:, :length])
            short, whole = ((text.tokens * text.mask[:, :, None])[:, :length] for text in (short, whole))
            torch.testing.assert_close(short, whole, rtol=0, atol=1e-5)
        else:
            assert short.mask is None
            torch.testing.assert_close(short.tokens, whole.tokens, rtol=0, atol=1e-5)
            torch.testing.assert_close(short.pooled, whole.pooled, rtol=0, atol=1e-5)
    parts = [next(encodings.batches(6, rank=rank, world=2, **options)).latents for rank in range(2)]
    assert torch.equal(torch.cat(parts), next(encodings.batches(6, **options)).latents)


@torch.no_grad()
def test_what_a_masked_network_does_not_see_is_not_kept(encoded):
    pipeline, out = encoded(MASKED)
    model = load(pipeline)
    told, encodings = open_images(out).attach(model), Encodings(out)
    x, captions = torch.randn(4, *model.image_shape), list(CAPTIONS)
    torch.testing.assert_close(told(x, 2.0, told.reader(captions)), model(x, 2.0, model.reader(captions)))
    torch.testing.assert_close(told(x, 2.0), model(x, 2.0))  # for no caption
    shards = [open_shard(encodings.file(number)) for number in range(3)]
    kept = sum(shard.get_slice("tokens").get_shape()[0] for shard in shards if shard.get_tensor("digests").numel())
    assert kept == int(model.reader(captions).mask.sum())  # each caption once
    assert set(told.reader.examples) <= set(CAPTIONS)
    assert told.reader.to_spec() == {**model.reader.to_spec(), "examples": told.reader.examples}
    new = told.reader(["a red cube", "green"])
    torch.testing.assert_close(new.tokens, model.reader(["a red cube", "green"]).tokens)


def test_half_precision_has_the_errors_that_are_documented(encoded, data, tmp_path):
    pipeline, exact = encoded(MASKED)
    assert run(["encode", str(pipeline), "--data", str(data), "--out", str(tmp_path)]) == 0
    half, whole = Encodings(tmp_path), Encodings(exact)
    latents, tokens = ((one.latents(range(COUNT)), one.text(range(4)).tokens) for one in (half, whole))
    torch.testing.assert_close(latents[0], tokens[0], rtol=2**-11, atol=1e-6)
    torch.testing.assert_close(latents[1], tokens[1], rtol=2**-8, atol=1e-6)


HOSTILE = {
    "token_ends": lambda ends: ends + 10**15,
    "tokens": lambda tokens: tokens[:1],
    "caption_ends": lambda ends: -ends,
    "captions": lambda text: text.flip(0),
    "labels": lambda labels: labels - 1,
    "digests": lambda keys: keys[:, :7].contiguous(),
    "latents": lambda latents: latents[:, :, :, :1].contiguous(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_named(name, encoded, tmp_path):
    out = shutil.copytree(encoded(MASKED)[1], tmp_path / "encoded")
    tensors = load_file(out / "00000.safetensors")
    encoding.write(out / "00000.safetensors", {**tensors, name: HOSTILE[name](tensors[name])})
    with pytest.raises(ValueError, match=r"00000\.safetensors"):
        images = open_images(out)
        next(images.batches(COUNT))
        images.encodings.text(range(4))


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_encodings_of_another_model_are_refused(encoded, data, tmp_path):
    pipeline, whole = encoded(WHOLE)
    copy = shutil.copytree(pipeline, tmp_path / "pipeline")
    images, model = open_images(whole), load(copy)

    def refuse(word, model, images=images):
        with pytest.raises(ValueError) as caught:
            images.attach(model)
        assert word in str(caught.value)
        assert "d2o encode" in str(caught.value)

    assert images.attach(model).reader is not model.reader  # the folder's name does not matter
    refuse("autoencoder", model.replace(codec=None))
    refuse("scale", model.replace(codec=Autoencoder(model.codec.folder, (2.0,), (0.0,))))
    refuse("shape", make_denoiser(channels=4).replace(codec=model.codec))
    refuse("network", load(encoded(MASKED)[0]).replace(codec=model.codec, image_shape=model.image_shape))
    edit(copy / "text_encoder/config.json", hidden_act="gelu")
    refuse("text encoder", model)
    shutil.rmtree(copy / "text_encoder")
    images.attach(model)  # what is gone is not needed
    edit(copy / "vae/config.json", scaling_factor=3.0)
    refuse("autoencoder", model)


def test_what_is_asked_too_late_or_of_another_folder_is_refused(encoded, data, tmp_path, capsys):
    pipeline, whole = encoded(MASKED)
    for options in ({"resolution": 8, "resize": "area"}, {"labels": "folders"}, {"captions": "txt"}, {"channels": 1}):
        with pytest.raises(ValueError, match="encoded already"):
            open_images(whole, **options)
    assert not open_images(whole, captions="none", labels="none").captioned
    (tmp_path / "notes.txt").write_text("mine")
    command = ["encode", str(pipeline), "--data"]
    assert run([*command, str(data), "--out", str(tmp_path)]) == 2
    assert run([*command, str(data), "--out", str(whole)]) == 2  # it is of another precision
    assert "precision" in capsys.readouterr().err
    assert run([*command, str(whole), "--out", str(tmp_path / "twice")]) == 2
    assert run([*command, str(data), "--out", str(tmp_path / "x"), "--batch-size", "0"]) == 2
    assert not (tmp_path / "x").exists()
    for content in ("", "{}", "[" * 99_999, json.dumps({"format": 2})):
        out = tmp_path / "hostile"
        out.mkdir(exist_ok=True)
        (out / "encodings.json").write_text(content)
        with pytest.raises(ValueError, match=r"encodings\.json"):
            open_images(out)


def test_a_class_conditional_model_trains_from_latents_alone(data, tmp_path):
    codec = Autoencoder(save_autoencoder("AutoencoderKL", tmp_path / "vae"))
    model = make_denoiser(channels=4, classes=2).replace(codec=codec)
    d2o.save(tmp_path / "model.safetensors", model)
    command = ["encode", str(tmp_path / "model.safetensors"), "--data", str(data), "--out", str(tmp_path / "encoded")]
    assert run(command) == 0
    assert Encodings(tmp_path / "encoded").about.encoders is None
    images = open_images(tmp_path / "encoded")
    batch = next(images.batches(COUNT))
    wanted = codec.encode(to_float(open_images(data).pixels(batch.number)))
    torch.testing.assert_close(batch.latents, wanted, rtol=2**-11, atol=1e-5)
    shown = codec.decode(batch.latents[:1])
    assert np.abs(images.pixels(batch.number[:1]).astype(int) - to_uint8(shown)).max() <= 1
    changes = {"duration": 16, "batch_size": 8, "discriminator": {"kind": "convolutional"}}
    trained = d2o.finetune(model, images, out=tmp_path / "run", **changes).denoiser.state_dict()
    assert any(not torch.equal(trained[name], before) for name, before in model.state_dict().items())
