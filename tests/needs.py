"""What some tests need of the machine: without it they are skipped and say how to get it, or fail where asked to."""

import os
import shutil
import subprocess
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import pytest

REQUIRED = "D2O_REQUIRE_BROWSER"
"""Set to 1 where nothing may be missing for the tests in a browser: then what is missing is a failure."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing(sentence: str) -> NoReturn:
    """Skip this test, or this module, with a reason that says what to do; fail where it must not be missing."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{sentence} ({REQUIRED}=1 wants it.)", pytrace=False)
    pytest.skip(sentence, allow_module_level=True)


def chromium() -> str:
    """Return the path of Chromium, or of what stands in for it, that starts (some systems have a name alone)."""
    for path in filter(None, map(shutil.which, BROWSERS)):
        if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return missing("There is no Chromium on this machine: apt-get install chromium.")


def node() -> str:
    """Return the path of node, which runs JavaScript."""
    return shutil.which("node") or missing("There is no node on this machine: apt-get install nodejs.")


def package(name: str) -> ModuleType:
    """Return a Python package that d2o's tests bring."""
    try:
        return import_module(name)
    except ImportError:
        return missing(f"The package {name} is not installed: pip install -e '.[dev]'.")
