"""Every command and program of the documentation is run, in its page's order, on stand-ins and at reduced size."""

import ast
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2o
from conftest import make_denoiser
from d2o.cli.arguments import parse
from d2o.cli.completion import options_of
from d2o.cli.main import COMMANDS, run
from d2o.pixels.files import write_images

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted(file for file in (ROOT / "docs").rglob("*.md") if "_build" not in file.parts)]

# Appended to a command of the documentation, where the last one of an option counts.
TINY = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1, attention_resolutions: []}"
SMALL_JUDGE = ("networks=[tf_efficientnet_lite0]", "size=32", "width=16", "weights=random")
TRAINING = ["--images", "16", "--batch", "8", "--sample-every", "16"]
REDUCED = {
    "pretrain": [*TRAINING, "--set", TINY],
    "finetune": [*TRAINING, *(word for setting in SMALL_JUDGE for word in ("--set", f"discriminator.{setting}"))],
    "sample": ["--seeds", "0-3"],
    "evaluate": ["--images", "24", "--features", "pixels", "--device", "cpu"],
}
FEWER = ("zip(digits.images,", "zip(digits.images[:60],")  # of the 1,797 digits that the tutorial writes
# Their options are read here and checked; they are run elsewhere, or need what no test has.
ONLY_READ = {
    r"d2o serve": "runs until it is stopped: tests/serving/test_server.py",
    r"d2o analyze": "takes minutes, on the runs of the demo: tests/analysis",
    r"d2o bench": "takes minutes: tests/bench",
    r"d2o estimate": "takes steps of a network of full size: tests/bench",
    r"d2o app": "runs until it is stopped: tests/app",
    r"d2o completion": "writes into the home folder: tests/cli/test_machines.py",
    r"d2o export .*--to (onnx|diffusers|web)": "takes long: tests/checkpoints/test_export.py, test_web_export.py",
    r"d2o .*--codec": "needs Stable Diffusion's autoencoder: tests/checkpoints and tests/training/test_transformers.py",
    r"d2o inspect DiT": "needs the file of DiT: tests/checkpoints/test_dit.py",
}
PROGRAMS_ONLY_READ = {
    "why": "needs the runs of the demo",
    "coming-from": "needs a model of diffusers",
    "README": "run by tests/test_readme.py",
}
RGB = ("edm-cifar10-32x32-uncond-ve.pkl", "ddpm-cifar10-32", "teacher.safetensors", "teacher")
WITH_CLASSES = ("edm-cifar10-32x32-cond-vp.pkl", "cd_imagenet64_lpips.pt")
DATA = ("cifar10-32x32.zip", "cifar10.zip")


def commands(text: str) -> list[str]:
    """Return commands in fenced blocks and Python programs, in order, programs with their fence's first line."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            found.append(f"python\n{block}")
        lines = block.replace("\\\n", " ").splitlines() if not language else []
        found += [line for line in lines if re.match(r"(OMP_NUM_THREADS=1 )?d2o |torchrun .*-m d2o ", line)]
    return found


def is_synopsis(line: str) -> bool:
    """Return whether a line says what may be written, instead of being a command."""
    return re.search(r"\b(MODEL|TEACHER|DATA|RECIPE)\b| \[--|\[MODEL", line) is not None


def arguments(line: str) -> list[str]:
    """Return the words after `d2o`; several processes are one here, and what is printed goes nowhere."""
    line = re.sub(r"^(torchrun .*-m |OMP_NUM_THREADS=1 )(?=d2o )", "", line)
    return shlex.split(line.partition(" > ")[0])[1:]


def only_read(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in ONLY_READ)


def read(line: str) -> None:
    """Read a command's options as it does itself, without running it."""
    name, *rest = arguments(line)
    if studies := getattr(import_module(f"d2o.cli.{name}"), "STUDIES", None):
        record, *_ = studies[rest.pop(0)]
    else:
        record = options_of(name)
    parse(record, name, rest, None)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Return a folder with what the pages name: tiny models under the names of public ones, data, and two runs."""
    place = tmp_path_factory.mktemp("named")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, classes in [*((name, 0) for name in RGB), *((name, 4) for name in WITH_CLASSES)]:
            d2o.save(name, make_denoiser(channels=3, classes=classes))  # a file is known by its content, not its name
        pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
        for name in DATA:
            write_images(name, [pixels], labels=[i % 4 for i in range(24)])
        for i, image in enumerate(pixels):
            folder = Path("photos") / str(i % 10)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:04d}.png")
        for line in (
            "d2o pretrain --data photos --out runs/teacher",
            "d2o finetune --from runs/teacher --data photos --recipe digits-d2o-f --out runs/one-step",
        ):
            assert run([*arguments(line), *REDUCED[line.split()[1]]]) == 0
    return place


def prepare(page: Path, stand_ins: Path, scratch: Path) -> None:
    """Lay out what a page needs before its first command: the tutorial makes all of it itself."""
    if page.stem == "tutorial":
        return
    shutil.copytree(stand_ins, scratch, dirs_exist_ok=True)
    if page.stem in ("edm-checkpoint", "coming-from"):  # these pages name only models of RGB images
        shutil.rmtree(scratch / "runs")
    if page.stem == "resume":  # its first command makes it
        shutil.rmtree(scratch / "runs/one-step")
    if page.stem == "diffusers":  # its data must fit its model, which has no classes
        shutil.rmtree(scratch / "runs")
        shutil.rmtree(scratch / "photos")
        write_images(scratch / "photos", [np.zeros((8, 8, 8, 3), np.uint8)])


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())], ids=lambda page: page.stem)
def test_commands_run(page, stand_ins, tmp_path, monkeypatch, capsys):
    prepare(page, stand_ins, tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in commands(page.read_text()):
        if line.startswith("python\n"):
            ast.parse(line.partition("\n")[2])
            if page.stem not in PROGRAMS_ONLY_READ:
                program = line.partition("\n")[2].replace(*FEWER)
                exec(compile(program, page.name, "exec"), {})
        elif is_synopsis(line):
            assert arguments(line)[0] in COMMANDS
        elif only_read(line):
            read(line)
        else:
            words = arguments(line)
            try:
                code = run([*words, *REDUCED.get(words[0], [])])
            except SystemExit as stop:
                code = stop.code
            printed = capsys.readouterr()
            assert code in (0, None), f"{page.name}: {line}\n{printed.err}"
            if " > " in line:
                Path(shlex.split(line)[-1]).write_text(printed.out)


def test_every_reason_is_still_needed():
    every = [line for page in PAGES for line in commands(page.read_text())]
    unused = [pattern for pattern in ONLY_READ if not any(re.search(pattern, line) for line in every)]
    assert unused == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_can_be_read(name):
    document = import_module(f"d2o.cli.{name}").__doc__ or ""
    lines = [line.strip() for line in document.splitlines() if re.match(r"  (d2o|torchrun) ", line)]
    examples = [line for line in lines if " STUDY " not in line]
    assert len(examples) >= 2
    for line in examples:
        read(line)


def test_the_reader_of_pages_finds_what_there_is():
    text = "\n".join(["```", "$ x", "d2o a \\", "  --b", "```", "```python", "import d2o", "```", "d2o not fenced"])
    assert [line.split() for line in commands(text)] == [["d2o", "a", "--b"], ["python", "import", "d2o"]]
    assert arguments("torchrun --nproc_per_node 8 -m d2o finetune --x 'a b' > file") == ["finetune", "--x", "a b"]
    assert is_synopsis("d2o export MODEL OUT") and not is_synopsis("d2o export model out")
