"""What the documentation names beside d2o's own commands is run, too: benchmarks and other programs, at reduced size.

`make` and `pip install` are what brought the tests here; their targets and extras must exist.
"""

import json
import re
import runpy
import shlex
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import d2o
import needs
from conftest import make_denoiser
from d2o.checkpoints import CheckpointError
from d2o.cli.main import run
from d2o.cli.options import parse
from d2o.data.emoji import build
from d2o.data.files import write_images
from d2o.export import export, runtime
from emoji_packages import make_packages

from . import measuring
from .measuring import BENCHMARKS, finished, gpu, loading, memory, own_features, sharding, time_to_quality, write_few
from .stand_ins import JUDGED
from .test_commands import PAGES, ROOT

sys.path.insert(0, str(BENCHMARKS))  # as for scripts, which import each other


def programs(text: str) -> set[str]:
    """Return the command lines that begin with `python` or `pytest`, in fenced blocks or in a sentence."""
    fences = [body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if not kind]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = (" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose))
    lines = [*"\n".join(fences).splitlines(), *inline]
    return {line for line in lines if re.match(r"(OMP_NUM_THREADS=1 )?(python|pytest) ", line)}


def app_latency(*_) -> None:
    """Move the slider a few times."""
    needs.chromium()
    needs.package("playwright")
    assert "images: median" in finished(BENCHMARKS / "app_latency.py", MOVES=5)


def browser_rate(_, place: Path) -> None:
    needs.chromium()
    try:
        runtime.runtime_files(None)
    except CheckpointError as error:
        needs.missing(f"onnxruntime-web is not here ({runtime.VARIABLE} may name its npm package): {error}")
    export(make_denoiser(channels=3, classes=4), place / "page", "web", title="Four kinds")
    assert "images a second" in finished(BENCHMARKS / "browser_rate.py", place / "page", "0.2")


def decoder_memory(*_) -> None:
    needs.package("diffusers")
    assert "GiB an image" in finished(BENCHMARKS / "decoder_memory.py", SIDES=(256,))


def run_here(words: list[str], **_) -> None:
    """Run `python -m d2o ...` without the seconds that a process takes to start."""
    assert words[:3] == [sys.executable, "-m", "d2o"] and run(words[3:]) == 0


IN_THIS_PROCESS = SimpleNamespace(run=run_here)
STUDIED: list[str] = []
"""Lines of the study differ in what they name alone."""


def cifar10_study(line: str, place: Path) -> None:
    """Run the steps of a quick study up to the first student's mark."""
    if STUDIED:
        return
    STUDIED.append(line)
    sys.path.insert(0, str(BENCHMARKS))
    import cifar10_study as study
    import study_rows
    import study_work

    few = dict.fromkeys(("pretrain_images", "classifier", "views", "trials", "held_out"), 32)
    size = replace(study.QUICK, **few, examined=16, marks=(160,), real=(), transformer=0, methods=("d2o-f",))
    one = study.Study(size, str(write_few(place / "few.npz")), place / "runs", place / "results")
    (place / "runs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_work, "TEACHER_STEPS", (2,))
        patch.setattr(study_work, "apart", lambda act: (act(), None)[1])  # autograd survives no fork
        patch.setattr(study, "subprocess", IN_THIS_PROCESS)
        patch.setitem(study_rows.TRIALS, "d2o-f", ({},))
        assert study.work(one) == 0
        one.reread()
        assert all(done for _, _, _, done in study.jobs(one))


def make_emoji(place: Path) -> tuple[Path, Path]:
    """Return a model of two steps of training, and the emoji that it saw."""
    packages, data, tiny = make_packages(place), place / "emoji.zip", {"channels": 8, "attention_resolutions": []}
    build(packages, data, styles=("noto", "twemoji"), tones=False)
    backbone = {"kind": "text_unet", **tiny, "channel_multipliers": [1], "num_blocks": 1}
    d2o.pretrain(data, "emoji-pretrain", out=place / "run", duration=128, backbone=backbone)
    return place / "run", data


def emoji_score(_, place: Path) -> None:
    model, data = make_emoji(place)
    words = [model, "--data", data, "--steps", "2", "--images", "8", "--out", place / "sheets"]
    for space in ("lite2", "views"):
        found = json.loads(finished(BENCHMARKS / "emoji_score.py", *words, "--space", space))
        assert found.keys() >= {"seen", "pairs", "concepts"} and 0 <= found["seen"]["retrieval"] <= 1
    assert {file.stem for file in (place / "sheets").iterdir()} == {"seen", "pairs", "concepts"}


def small_data(_, place: Path) -> None:
    """Run one row, which is then left alone."""
    model, data = make_emoji(place)
    words = ["--from", model, "--data", data, "--runs", place / "runs", "--results", place / "rows.jsonl"]
    words += ["--rows", "own-features", "--images", "64"]
    assert json.loads(finished(BENCHMARKS / "small_data.py", *words))["row"] == "own-features"
    assert finished(BENCHMARKS / "small_data.py", *words) == ""


def shapes_score(_, place: Path) -> None:
    """Score a model of two steps of training."""
    tiny = "backbone={kind: text_transformer, channels: 8, num_blocks: 1, num_heads: 2}"
    assert run(["pretrain", "--data", "shapes", "--recipe", "shapes-pretrain", "--images", "128", "--set", tiny,
                "--out", str(place / "run")]) == 0  # fmt: skip
    found = json.loads(finished(BENCHMARKS / "shapes_score.py", place / "run", "--images", "1"))
    assert {*found} == {"seen", "held_out"} and 0 <= found["seen"]["fit"] <= 1


def report_results(_, place: Path) -> None:
    finished(BENCHMARKS / "report_results.py", "--out", place / "docs" / "results.md")
    assert (place / "docs" / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()


def full_size_table(*_) -> None:
    program = runpy.run_path(str(BENCHMARKS / "full_size.py"))
    program["table"].__globals__["ROWS"] = program["ROWS"][:1]
    program["table"]()


def full_size_meta(*_) -> None:
    runpy.run_path(str(BENCHMARKS / "full_size.py"))["show"]("cifar10-d2o-convolutional", True, None)


def full_size(_, place: Path) -> None:
    """Take two real steps of the preset that is done soonest."""
    own = runpy.run_path(str(BENCHMARKS / "full_size.py"))["show"].__globals__
    own["RESULTS"] = place / "found.json"
    own["show"]("cifar10-d2o-convolutional", False, "float32")
    found = json.loads(own["RESULTS"].read_text())["cifar10-d2o-convolutional"]
    assert found["steps"] == 2 and set(found["losses"]) == {"student", "discriminator", "r1"}


def speed_and_quality(line: str, place: Path) -> None:
    """Run one row of the line's problem with fewer images, a smaller judge and measures that take no network."""
    own = runpy.run_path(str(BENCHMARKS / "speed_and_quality.py"))["main"].__globals__
    words = shlex.split(line)[2:]
    problem = "digits" if "--digits-teacher" in words else "cifar10"
    own["IMAGES"][problem], own["SEEDS"] = 16, (0,)
    own["RESULTS"] = place / "results" / "found.json"
    name = list(own["VARIANTS"][problem])[-1]
    extra = [*JUDGED, "--batch", "8", "--evaluate-images", "24", "--features", "pixels"]
    own["VARIANTS"][problem] = {name: [*own["VARIANTS"][problem][name], *extra]}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    write_images(place / "data.zip", [pixels], labels=[0, 9] * 20)
    given = {"cifar10-train-32x32.zip": str(place / "data.zip")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", *(given.get(word, word) for word in words), "--runs", str(place / "runs")])
        own["main"]()
    (row,) = json.loads(own["RESULTS"].read_text())
    assert row["variant"] == name and row["images"] == 16 and row["features"] == "pixels"


def steps(line: str, _) -> None:
    """Take rounds of one iteration."""
    words = [*shlex.split(line)[1:], "--batch", "2", "--repeats", "1", "--kinds", "pretrain"]
    if "--out" in words:
        words[words.index("--out") + 1] = "/dev/null"
    said = finished(*words, ROUND=1, measure_memory=lambda *_: 1.0)
    assert "convolution" in said or json.loads(said)["images_per_second"]


def generation(_, place: Path) -> None:
    """Measure once, on tiny models, without the minute that a compiler takes."""
    needs.package("onnxruntime")
    own = runpy.run_path(str(BENCHMARKS / "generation.py"))["measure"].__globals__
    own["compile_network"], own["subprocess"] = lambda *_: "left out", IN_THIS_PROCESS
    found = own["measure"](make_denoiser(0, classes=10), make_denoiser(1, classes=10), 1, place)
    assert {"loads", "onnxruntime, batch 64"} <= set(found["per_second"])


def rounding(*_) -> None:
    """Measure one row of one network."""
    own = runpy.run_path(str(BENCHMARKS / "rounding.py"))
    assert 0 < own["difference"](own["random_network"]("DiT", 0), own["FAMILIES"]["velocity"]) < 0.02


def http_server(line: str, place: Path) -> None:
    (place / "page").mkdir()
    (place / "page" / "index.html").write_text("here")
    words = [sys.executable, "-u", *shlex.split(line)[1:], "0"]
    with subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"port (\d+)", server.stdout.readline())
            assert found
            address = f"http://127.0.0.1:{found[1]}/"
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
                assert answer.read() == b"here"
        finally:
            server.terminate()


def research(line: str, _) -> None:
    """Read the options of a script; tests/research runs every script."""
    script, *words = shlex.split(line)[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "research"))
        parse(runpy.run_path(str(ROOT / script))["Options"], script, words, None)


def is_a_test_here(line: str, _) -> None:
    """Files of tests that a page names are run with all others."""
    assert (ROOT / shlex.split(line)[1]).exists()


PROGRAMS = {
    r"benchmarks/app_latency\.py": app_latency,
    r"benchmarks/browser_rate\.py page": browser_rate,
    r"benchmarks/decoder_memory\.py": decoder_memory,
    r"benchmarks/cifar10_study\.py": cifar10_study,
    r"benchmarks/own_features\.py": own_features,
    r"benchmarks/report_results\.py": report_results,
    r"benchmarks/time_to_quality\.py": time_to_quality,
    r"benchmarks/full_size\.py --table": full_size_table,
    r"benchmarks/full_size\.py --meta": full_size_meta,
    r"benchmarks/full_size\.py --precision": full_size,
    r"benchmarks/steps\.py": steps,
    r"benchmarks/sharding\.py": sharding,
    r"benchmarks/generation\.py": generation,
    r"benchmarks/memory\.py": memory,
    r"benchmarks/rounding\.py": rounding,
    r"benchmarks/loading\.py": loading,
    r"benchmarks/gpu\.py": gpu,
    r"benchmarks/speed_and_quality\.py": speed_and_quality,
    r"benchmarks/shapes_score\.py": shapes_score,
    r"benchmarks/emoji_score\.py": emoji_score,
    r"benchmarks/small_data\.py": small_data,
    r"benchmarks/study_speeds\.py": measuring.study_speeds,
    r"benchmarks/cifar10_32\.py": measuring.cifar10_32,
    r"-m http\.server": http_server,
    r"research/\w+\.py": research,
    r"^pytest ": is_a_test_here,
    r"docs/pictures\.py": lambda *_: runpy.run_path(str(ROOT / "docs" / "pictures.py"))["draw"](),
    r"docs/figures\.py|benchmarks/(clip_score|soak)\.py": lambda *_: None,  # run by tests of their own
}
"""How a program is run, by what its line contains."""
EVERY_LINE = (cifar10_study, speed_and_quality, steps, research, is_a_test_here)
"""Those whose lines differ in what they run; of the others the longest line stands for all."""
LINES = sorted({line for page in PAGES for line in programs(page.read_text())})


def test_every_line_is_of_one_program():
    for line in LINES:
        assert sum(bool(re.search(pattern, line)) for pattern in PROGRAMS) == 1, line


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run(name, tmp_path):
    lines = sorted((line for line in LINES if re.search(name, line)), key=len)
    assert lines, "the documentation names it no more"
    for number, line in enumerate(lines if PROGRAMS[name] in EVERY_LINE else lines[-1:]):
        place = tmp_path / str(number)
        place.mkdir()
        PROGRAMS[name](line, place)


def test_targets_of_make_exist():
    targets = {
        target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"make {target}"


def test_the_reader_of_programs_finds_what_there_is():
    assert programs("`python a.py`, `x`\n```\npython -m b\nls\n```\n`OMP_NUM_THREADS=1 python\nc.py`") == {
        "python a.py", "python -m b", "OMP_NUM_THREADS=1 python c.py"
    }  # fmt: skip
