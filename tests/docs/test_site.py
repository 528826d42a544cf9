"""The documentation site is built without a warning, its figures are drawn by its code, and its links hold."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted(file for file in DOCS.rglob("*.md") if "_build" not in file.parts)


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
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees", DOCS, tmp_path / "site"]
    answer = subprocess.run([sys.executable, "-m", "sphinx", *map(str, words)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    site = tmp_path / "site"
    assert {"index.html", "tutorial.html", "concepts.html", "coming-from.html", "api"} <= {
        p.name for p in site.iterdir()
    }
    reference = (site / "api" / "diffusion.html").read_text()
    assert "A sampler walks a list of sigmas" in reference and "karras_sigmas" in reference
    home = (site / "index.html").read_text()
    outside = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)', home)
    assert not outside, f"the page asks others for {outside}"
