"""What surrounds the package holds: its wheel, its citation, its workflow, its image."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_package_is_typed():
    assert (ROOT / "src/d2o/py.typed").exists() and "Typing :: Typed" in PROJECT["classifiers"]


def test_the_wheel_has_what_the_package_has_and_no_tests(tmp_path):
    pytest.importorskip("hatchling", reason="the builder of the wheel is not installed: pip install hatchling")
    builder = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", builder, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "d2o/py.typed" in names and "d2o/server/usage.txt" in names
    assert {name.partition("/")[0] for name in names} == {"d2o", f"d2o-{PROJECT['version']}.dist-info"}


def test_the_pythons_that_are_named_are_those_that_are_allowed():
    named = [row.rpartition(" ")[2] for row in PROJECT["classifiers"] if "Python :: 3." in row]
    assert named[0] == PROJECT["requires-python"].removeprefix(">=") and named == sorted(named)
    assert set(WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"]) <= set(named)


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    bibtex = (ROOT / "README.md").read_text()
    assert paper["title"] in bibtex and paper["url"].rpartition("/")[2] in bibtex
    assert all(author["family-names"] in bibtex for author in paper["authors"])


def test_the_workflow_runs_targets_of_make_and_asks_for_no_secrets():
    lines = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make test", "make docs", "make wheel"} <= set(lines)
    for line in lines:
        assert re.fullmatch(r"make \w+", line) and re.search(rf"^{line[5:]}:", MAKEFILE, re.MULTILINE), line
    assert "secrets" not in (ROOT / ".github/workflows/ci.yml").read_text()
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_image_copies_files_that_are_there_and_not_ignored():
    dockerfile = (ROOT / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    assert copied == kept and all((ROOT / name).exists() for name in kept)
    assert {PROJECT["readme"], PROJECT["license-files"][0]} <= copied, "the build of the package reads them"
    program = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', dockerfile, re.MULTILINE)
    assert program == list(PROJECT["scripts"])
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE) == ["d2o"]
    assert all(
        extra in PROJECT["optional-dependencies"] for extra in re.findall(r"^ARG EXTRAS=(\w+)$", dockerfile, re.M)
    )
    used = set(re.findall(r"\$\{?([A-Z]+)\b", "\n".join(re.findall(r"^(?:FROM|RUN|    &&).*", dockerfile, re.M))))
    assert used == {*re.findall(r"^ARG ([A-Z]+)", dockerfile, re.M)}


@pytest.mark.parametrize("target", sorted(re.findall(r"^# make (\w+)", MAKEFILE, re.MULTILINE)))
def test_the_targets_that_the_makefile_lists_exist(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


STAND_IN = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *urlopen*) exit {unreached};;
  *index-url*) exit {lacking};;
  "-m venv"*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
esac
"""
"""A Python that notes what it is asked and installs nothing."""


@pytest.mark.parametrize(
    ("asked", "unreached", "lacking"), [("cpu", 0, 0), ("cpu", 1, 0), ("cpu", 0, 1), ("default", 0, 0)]
)
def test_setting_up_for_the_demo_takes_the_build_that_can_be_had(asked, unreached, lacking, tmp_path):
    make = shutil.which("make") or pytest.skip("There is no make on this machine.")
    python, log, venv = tmp_path / "python", tmp_path / "log", tmp_path / "venv"
    python.write_text(STAND_IN.format(log=log, unreached=unreached, lacking=lacking))
    python.chmod(0o755)
    words = [f"PYTHON={python}", f"VENV={venv}", f"TORCH={asked}", str(venv / "installed")]
    done = subprocess.run([make, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    installed = [line for line in log.read_text().splitlines() if " install " in line]
    assert installed[-1].endswith("--editable .") and "dev" not in log.read_text()
    assert len(installed) == 1 + (asked == "cpu" and not unreached)
    told = [line for line in done.stdout.splitlines() if line.startswith("PyTorch's CPU build")]
    assert len(told) == bool(unreached or lacking)
