"""The locked versions fit the lower bounds, and what is imported is declared and locked."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
LOCKED = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES) if version}
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(row) for row in (*PROJECT["dependencies"], *(row for rows in EXTRAS.values() for row in rows))]
NEVER_INSTALLED = {"trackio", "wandb", "d2o"}
"""What the development environment does without, and the project itself."""
SAFE = {  # the first release without holes that were known when it was named
    "pillow": "12.1.1",
    "starlette": "0.49.1",
    "filelock": "3.20.3",
    "h11": "0.16.0",
    "pyarrow": "23.0.1",
    "torch": "2.10.0",
    "onnx": "1.21.0",
}


@pytest.mark.parametrize("row", DECLARED, ids=str)
def test_locked_versions_fit_the_bounds(row):
    if row.name not in NEVER_INSTALLED:
        assert row.specifier.contains(LOCKED[canonicalize_name(row.name)])


@pytest.mark.parametrize("name", SAFE)
def test_no_lower_bound_allows_known_holes(name):
    (row,) = [row for row in DECLARED if row.name == name]
    older = SAFE[name].rsplit(".", 1)[0] + ".dev0"
    assert row.specifier.contains(LOCKED[name]) and not row.specifier.contains(older, prereleases=True)


def test_hashed_versions_are_the_locked_ones():
    rows = (ROOT / "requirements-hashed.txt").read_text().splitlines()[1:]
    hashed = {canonicalize_name(row.split("==")[0]): row.split()[0].split("==")[1] for row in rows}
    assert all(" --hash=sha256:" in row and len(row.partition("sha256:")[2]) == 64 for row in rows)
    assert {name: version for name, version in hashed.items() if LOCKED.get(name, version) != version} == {}
    assert {canonicalize_name(row.name) for row in DECLARED} - NEVER_INSTALLED <= hashed.keys()


def test_what_is_imported_is_declared():
    declared = {canonicalize_name(row.name) for row in DECLARED} | {"d2o"}
    owners = packages_distributions()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                found = {canonicalize_name(owner) for owner in owners.get(top, [])}
                assert not found or found & declared, f"{file.name} imports {top} of {found}"
