"""Sphinx: `make docs` builds the site without network; the reference is written from the docstrings."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))  # else the installed one

import d2o  # noqa: E402

project = "d2o"
version = release = d2o.__version__
copyright = "the authors of d2o, Apache-2.0"
highlight_language = "text"  # blocks without a name are commands; those of Python say so
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "d2o"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "html_image"]  # else no one copies the files of <img>
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
add_module_names = False
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # two folders may have a class of one name

FOLDERS = ("pages", "pickles", "kernels", "diffusion", "backbones", "features", "encoders", "data")
FOLDERS += (
    "discriminators",
    "objectives",
    "checkpoints",
    "metrics",
    "export",
    "training",
    "planning",
    "analysis",
    "server",
)
"""Of the reference, from the bottom floor up; the others are programs."""


def write_reference(app) -> None:
    """Write a page a folder of the library into docs/api, listing its modules; Sphinx fills in their docstrings."""
    place = Path(app.srcdir) / "api"
    place.mkdir(exist_ok=True)
    for old in place.glob("*.rst"):
        old.unlink()
    for folder in app.config.reference_folders.split(","):
        source = Path(d2o.__file__).parent / folder
        if not source.is_dir():
            continue
        files = sorted(source.rglob("*.py"), key=lambda file: (file.name != "__init__.py", str(file)))
        names = [".".join(file.relative_to(source.parent).with_suffix("").parts) for file in files]
        names = [f"d2o.{name.removesuffix('.__init__')}" for name in names]
        lines = [folder, "=" * len(folder), ""]
        for name in names:
            title = name.removeprefix("d2o.")
            lines += [title, "-" * len(title), "", f".. automodule:: {name}", "   :ignore-module-all:", ""]
        (place / f"{folder}.rst").write_text("\n".join(lines))


def as_plain_text(app, what, name, thing, options, lines: list[str]) -> None:
    """Let docstrings be what they are, plain sentences with `code`: no other sign means anything."""
    parts = re.split(r"`([^`]+)`", "\n".join(lines))
    parts[::2] = [re.sub(r"([*|_`\\])", r"\\\1", text) for text in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    lines[:] = re.sub(r"``(?=\w)(?<=\w``)", "``\\\\ ", "".join(parts)).splitlines()  # `Span`s: a word goes on after it


def setup(app) -> None:
    """Let the reference be written before Sphinx reads its sources."""
    app.add_config_value("reference_folders", ",".join(FOLDERS), "env")  # -D reference_folders=diffusion is quick
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-docstring", as_plain_text)
