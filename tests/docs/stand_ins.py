"""What the documentation's commands are run on: tiny models under the names of its models, few images, short trials."""

import json
import os
import re
import shlex
import shutil
import signal
import threading
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import d2o
import needs
from autoencoders import save_autoencoder
from conftest import make_denoiser
from d2o import backbones
from d2o.cli.main import run
from d2o.data.files import write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon
from d2o.discriminators import Projected
from d2o.export import runtime
from d2o.training.fit import read_words
from d2o.training.recipe import Stages, TeacherImages
from d2o.training.recipes import RECIPES, STAGES
from emoji_packages import make_packages

# Appended to a command of the documentation, where the last one of an option counts.
TINY = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1, attention_resolutions: []}"
TINY_TEXT = "backbone={kind: text_transformer, channels: 8, num_blocks: 1, num_heads: 2}"
SMALL_JUDGE = ("networks=[tf_efficientnet_lite0]", "size=32", "width=16", "weights=random")
JUDGED = [word for setting in SMALL_JUDGE for word in ("--set", f"discriminator.{setting}")]
TRAINING = ["--images", "16", "--batch", "8"]
MEASURED = ["--count", "12", "--features", "pixels", "--repetitions", "1"]
REDUCED = {
    "pretrain": [*TRAINING, "--sample-every", "16", "--precision", "float32", "--set", TINY],
    "finetune": [*TRAINING, "--sample-every", "16", "--precision", "float32", *JUDGED],
    "estimate": [*TRAINING, "--from", "teacher.safetensors", *JUDGED],
    "plan": ["--hours", "1000"],
    "sample": ["--seeds", "0-3"],
    "evaluate": ["--images", "24", "--features", "pixels", "--device", "cpu"],
    "serve": ["--port", "0"],
    "push": ["--dry-run"],
    "emoji": ["--styles", "noto,twemoji"],  # which need no renderer
    "analyze spectrum": ["--seeds", "0-3", "--steps", "4"],
    "analyze blocks": ["--seeds", "0-3", "--steps", "4"],
    "analyze minima": [*MEASURED, "--steps", "1", "2"],
}
RGB = ("edm-cifar10-32x32-uncond-ve.pkl", "ddpm-cifar10-32", "teacher.safetensors", "teacher", "d2o.safetensors")
WITH_CLASSES = ("edm-cifar10-32x32-cond-vp.pkl", "cd_imagenet64_lpips.pt")
OURS = ("cifar10-small-teacher", "cifar10-small")
"""Models that come with d2o, where a page puts them through more than a test can wait for."""
DIGITS = ("demo-digits/student", "demo-1/teacher", "demo-1/student")
DATA = ("cifar10-32x32.zip", "cifar10.zip")


def reduced(words: Sequence[str]) -> list[str]:
    """Return the words of a command with those that make it small."""
    resized = []
    if "--resolution" in words and ("--codec" in words or words[0] in ("analyze", "encode")):
        resized = ["--resolution", "8" if words[0] == "analyze" and "--codec" not in words else "16"]
    smaller = REDUCED.get(" ".join(words[:2]), REDUCED.get(words[0], []))
    others = ("discriminator=", "own-features", "emoji-d2o-f", "coarse-to-fine")  # JUDGED are settings of another kind
    if any(name in word for word in words for name in others):
        smaller = smaller[: -len(JUDGED)]
    if any("coarse-to-fine" in word for word in words):
        smaller = [*smaller, "--set", "stages.2.data.count=16"]
    few = (word.replace("count: 500", "count: 16") for word in words if word != "--shard")  # one process refuses it
    found = [*few, *smaller, *resized]
    text = {"shapes": TINY_TEXT, "shapes-pretrain": TINY_TEXT, "emoji-pretrain": TINY.replace("song_unet", "text_unet")}
    tiny = next((text[word] for word in words if word in text), TINY)
    return [tiny if word == TINY else word for word in found]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Return a folder with what the pages name: tiny models under the names of public ones, data, and two runs."""
    place = tmp_path_factory.mktemp("named")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        models = dict.fromkeys((*RGB, "d2o-f.safetensors"), (3, 0))
        models |= dict.fromkeys(WITH_CLASSES, (3, 4)) | dict.fromkeys(DIGITS, (1, 10))
        for seed, (name, (channels, classes)) in enumerate(models.items()):
            Path(name).parent.mkdir(exist_ok=True)
            d2o.save(name, make_denoiser(seed, channels, classes))  # a file is known by its content, not its name
        pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
        for name in DATA:
            write_images(name, [pixels], labels=[i % 4 for i in range(24)])
        for i, image in enumerate(pixels):
            folder = Path("photos") / str(i % 10)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:04d}.png")
        for line in (
            "pretrain --data photos --out runs/teacher",
            "finetune --from runs/teacher --data photos --recipe digits-d2o-f --out runs/one-step",
        ):
            assert run(reduced(line.split())) == 0
    return place


def transformer(scratch: Path) -> None:
    """Write what the page of DiT names: a tiny transformer of latents, an autoencoder, and an image of each class."""
    diffusers = needs.package("diffusers")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"resolution": 8, "in_channels": 4, "out_channels": 4, "channels": 16, "num_blocks": 2, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build({"kind": "dit", "num_classes": 1000, **sizes})
        codec = diffusers.AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, **blocks)
    d2o.save(scratch / "DiT-XL-2-256x256.pt", Denoiser(network, Epsilon(), (4, 8, 8), 1000))
    codec.save_pretrained(scratch / "sd-vae-ft-ema")
    save_autoencoder("AutoencoderTiny", scratch / "taesd")
    pixels = np.zeros((1000, 16, 16, 3), np.uint8)
    write_images(scratch / "imagenet", [pixels], labels=list(range(1000)))


def prepare(page: Path, stand_ins: Path, scratch: Path) -> None:
    """Lay out what a page needs before its first command: the tutorial makes all of it itself."""
    if page.stem == "tutorial":
        return
    shutil.copytree(stand_ins, scratch, dirs_exist_ok=True)
    if page.stem in ("edm-checkpoint", "coming-from"):  # these pages name only models of RGB images
        shutil.rmtree(scratch / "runs")
    if page.stem == "resume":  # its first command makes it
        shutil.rmtree(scratch / "runs/one-step")
    if page.parent.name == "shipped":  # the models are real there, and want images of theirs
        (scratch / "cifar10.zip").unlink()
        pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
        write_images(scratch / "cifar10.zip", [pixels], labels=[i % 10 for i in range(20)])
    if page.stem == "why":
        for seed, name in enumerate(OURS):  # a file goes before a model of this name
            d2o.save(scratch / f"{name}.safetensors", make_denoiser(seed, 3, 4))
            (scratch / f"{name}.safetensors").rename(scratch / name)
    if page.stem == "export":
        d2o.save(scratch / "digits-small", make_denoiser(0, 1, 10).replace(one_step=True))
    if page.stem == "emoji":
        make_packages(scratch)
        shutil.rmtree(scratch / "runs")
        tiny = {"kind": "text_unet", "channels": 8, "attention_resolutions": [], "channel_multipliers": [1]}
        words = read_words(d2o.images("emoji-smileys"))
        model = d2o.untrained({**tiny, "num_blocks": 1}, (3, 32, 32), reader=words)
        for name, one_step in (("emoji", True), ("emoji-teacher", False)):
            d2o.save(scratch / name, model.replace(one_step=one_step))
    if page.stem in ("dit", "encode"):
        transformer(scratch)
    if page.stem == "encode":
        from stock_pipelines import save_pipeline, sd3

        save_pipeline(scratch / "stable-diffusion-3-medium", lambda: sd3(with_t5=False))
        shutil.rmtree(scratch / "runs")
        for photo in (scratch / "photos").rglob("*.png"):
            photo.with_suffix(".txt").write_text(f"photo {photo.stem}")
    if page.stem == "diffusers":  # its data must fit its model, which has no classes
        shutil.rmtree(scratch / "runs")
        shutil.rmtree(scratch / "photos")
        write_images(scratch / "photos", [np.zeros((8, 8, 8, 3), np.uint8)])


@pytest.fixture
def quick(tmp_path_factory, monkeypatch):
    """Spare what takes minutes, the network, or an end: servers are stopped as soon as they answer."""
    package = tmp_path_factory.mktemp("onnxruntime-web")
    (package / "dist").mkdir()
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.2.3"}))
    for name in runtime.FILES:
        (package / "dist" / name).touch()
    monkeypatch.setenv(runtime.VARIABLE, str(package))
    monkeypatch.setattr("d2o.pages.DOTS", 40)  # of the figures
    for module in ("estimate", "plan"):
        monkeypatch.setattr(f"d2o.planning.{module}.SECONDS", 0.0)
    judge = Projected(size=32, width=16, weights="random")
    monkeypatch.setitem(RECIPES, "shapes-d2o-f", replace(RECIPES["shapes-d2o-f"], duration=64, discriminator=judge))
    first, second = STAGES["digits-teacher-images"].stages
    few = Stages((first, replace(second, data=TeacherImages(count=16, steps=2))))
    monkeypatch.setitem(STAGES, "digits-teacher-images", few)
    monkeypatch.setattr("d2o.demo.shapes.IMAGES", 1)
    monkeypatch.setattr("d2o.demo.shapes.TRIED", (1, 4))
    for name, few in {"DURATION": 64, "EACH": 1, "TEACHER_STEPS": 1}.items():
        monkeypatch.setattr(f"d2o.demo.emoji.{name}", few)
    for command in ("app", "serve"):
        monkeypatch.setattr(f"d2o.cli.commands.{command}.say", stop_what_answers)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


REQUESTS: list[str] = []
"""Lines with curl or wrk that the next server is asked by."""
ANSWERED: set[str] = set()


def stop_what_answers(sentence: str) -> None:
    """Take a server's address from what it tells, ask it, and end it as a service manager does."""

    def ask_then_stop(address: str) -> None:
        try:
            for line in (f"curl {address}", *REQUESTS):
                request = asked_at(address, line)
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                    assert answer.status == 200 and answer.read()
                ANSWERED.add(line)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    if found := re.search(r"http://\S+/", sentence):
        threading.Thread(target=ask_then_stop, args=(found[0],)).start()


def asked_at(address: str, line: str) -> urllib.request.Request:
    """Return the request of a line with curl or wrk, to a server that listens elsewhere."""
    words = shlex.split(line)
    (url,) = (word for word in words if word.startswith("http://"))
    options = {word: words[i + 1] for i, word in enumerate(words) if word in ("-H", "-d") and words[0] == "curl"}
    headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
    path = url.split("/", 3)[3]
    return urllib.request.Request(address + path, options.get("-d", "").encode() or None, headers)
