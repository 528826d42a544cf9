"""The documentation site is built without a warning, its figures are drawn by its code, and its links hold."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted(file for file in DOCS.rglob("*.md") if "_build" not in file.parts)
PICTURE = r'<img[^>]+?src="(?!data:)([^"]+)"'


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_figures_are_drawn_by_their_code(tmp_path):
    drawn = runpy.run_path(str(DOCS / "figures.py"))["FIGURES"]
    named = set(re.findall(r"images/concepts-(\w+)\.png", (DOCS / "concepts.md").read_text()))
    assert set(drawn) == named
    for name, draw in drawn.items():
        draw().savefig(tmp_path / f"{name}.png", dpi=20)
        assert (DOCS / "images" / f"concepts-{name}.png").exists()


def test_the_site_is_built_without_warnings(tmp_path):
    """With one folder of the reference, as all would take a minute; `make docs` writes all."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    source, site = tmp_path / "docs", tmp_path / "site"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "api"))
    words = ["-W", "--keep-going", "-q", "-b", "html", "-D", "reference_folders=diffusion"]
    command = [sys.executable, "-m", "sphinx", *words, str(source), str(site)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    made = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    assert {str(page.relative_to(DOCS).with_suffix(".html")) for page in PAGES} <= made
    reference = (site / "api" / "diffusion.html").read_text()
    assert "A sampler walks a list of sigmas" in reference and "karras_sigmas" in reference
    home = (site / "index.html").read_text()
    outside = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)', home)
    assert not outside, f"the page asks others for {outside}"
    pictures = [(page, name) for page in site.rglob("*.html") for name in re.findall(PICTURE, page.read_text())]
    assert len(pictures) > 20
    assert [(page.name, name) for page, name in pictures if not (page.parent / name).exists()] == []


def test_the_reference_covers_the_library():
    """A folder of the library is in the reference, or is a program."""
    listed = runpy.run_path(str(DOCS / "conf.py"))["FOLDERS"]
    folders = {file.parent.name for file in (DOCS.parent / "src" / "d2o").glob("*/__init__.py")}
    assert folders - set(listed) <= {"cli", "demo"}
