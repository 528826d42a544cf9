"""The house stands: imports run downward, no circles, short files, budgets, and one place for each idea."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from d2o import objectives
from d2o.diffusion.denoiser import Denoiser

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "d2o"
MODULES = {
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in SOURCE.rglob("*.py")
}
FLOORS = {
    "errors": 0,
    "devices": 0,
    "files": 0,
    "tars": 0,
    "records": 0,
    "pages": 0,
    "fetch": 1,
    "kernels": 1,
    "pickles": 1,
    "diffusion": 1,
    "backbones": 2,
    "features": 2,
    "encoders": 2,
    "data": 3,
    "discriminators": 3,
    "checkpoints": 4,
    "objectives": 4,
    "metrics": 5,
    "export": 5,
    "training": 6,
    "planning": 7,
    "analysis": 7,
    "demo": 7,
    "server": 7,
    "cli": 8,
}
LONGEST = 300


def imports(module: str, text: str, package: bool) -> Iterator[str]:
    """Yield the d2o modules that a module imports, anywhere in it: also within functions and by relative names."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".") if package else module.split(".")[:-1]
            parts = start[: len(start) - node.level + 1] if node.level else []
            origin = ".".join([*parts, *([node.module] if node.module else [])])
            names = [
                f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in MODULES else origin for alias in node.names
            ]
        yield from (name for name in names if name.split(".")[0] == "d2o")


def imported_by(module: str) -> set[str]:
    file = MODULES[module]
    return set(imports(module, file.read_text(), file.name == "__init__.py"))


GRAPH = {module: imported_by(module) for module in MODULES}


def folder(module: str) -> str:
    """Return the folder of `d2o.folder.module`; empty for d2o itself."""
    return module.split(".")[1] if "." in module else ""


def test_every_folder_has_a_floor():
    assert {folder(module) for module in MODULES} - {"", "__main__"} <= FLOORS.keys()


@pytest.mark.parametrize("module", sorted(module for module in MODULES if folder(module) in FLOORS))
def test_imports_run_strictly_downward(module):
    for name in GRAPH[module]:
        if folder(name) not in ("", folder(module)):
            assert FLOORS[folder(name)] < FLOORS[folder(module)], f"{module} imports {name}, which is not below it"


def test_only_the_top_floors_use_the_front_door():
    """`import d2o` reaches every floor: below the demo it may give nothing but the version."""
    for module, file in MODULES.items():
        if "d2o" in GRAPH[module] and FLOORS.get(folder(module), 9) < FLOORS["demo"]:
            used = re.findall(r"(?<![\w./`])d2o\.(\w+)", re.sub(r"(?m)^\s*(from|import) .*$", "", file.read_text()))
            assert set(used) <= {"__version__"}, f"{module} takes {used} from d2o instead of from the folder below"


def test_nothing_imports_the_command_line_except_its_start():
    users = {module for module, names in GRAPH.items() if any(folder(name) == "cli" for name in names)}
    assert {module for module in users if folder(module) != "cli"} == {"d2o.__main__"}


def test_no_module_imports_itself_through_others():
    seen: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert seen.get(module) != "open", f"an import circle: {' -> '.join((*path, module))}"
        if module in seen or module not in GRAPH:
            return
        seen[module] = "open"
        for name in sorted(GRAPH[module] - {"d2o", module}):
            visit(name, (*path, module))
        seen[module] = "done"

    for module in sorted(MODULES):
        if module != "d2o":  # the front door is lazy
            visit(module, ())


@pytest.mark.parametrize("file", sorted({*SOURCE.rglob("*.py"), *TESTS.rglob("*.py")}), ids=lambda file: file.name)
def test_a_file_can_be_read_in_one_go(file):
    text = file.read_text()
    length = len(text.splitlines())
    assert length <= LONGEST, f"{file.name} has {length} lines: who opens it should see one idea whole; split it"
    tree = ast.parse(text)
    assert not tree.body or ast.get_docstring(tree), f"{file.name} does not begin by telling its idea"


BUDGETS = {"all": 28_300, "core": 17_400, "folder": 3_200}
"""Lines of Python: of src/d2o, of what the paper says (floors below training, and training), and of one folder."""
CORE = (
    "diffusion",
    "backbones",
    "features",
    "encoders",
    "data",
    "discriminators",
    "objectives",
    "checkpoints",
    "metrics",
    "training",
)


def lines(place: Path) -> int:
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(file.read_text().splitlines()) for file in files)


def test_no_folder_and_not_the_whole_outgrow_their_budgets():
    sizes = {name: lines(SOURCE / name) for name in FLOORS}
    assert {name: size for name, size in sizes.items() if size > BUDGETS["folder"]} == {}
    assert sum(sizes[name] for name in CORE) <= BUDGETS["core"]
    assert lines(SOURCE) <= BUDGETS["all"]


IMPORTS = {
    "--help": 8,
    "sample digits-small --seeds 0 --out x.png": 39,
    "sample shapes-small --seeds 0 --out x.png": 40,
    "inspect digits-small": 39,
    "evaluate --help": 65,
    "export --help": 63,
    "recipes": 71,
    "finetune --help": 126,
}
"""Modules of d2o that a command imports, at most."""
HEAVY = {"accelerate", "diffusers", "matplotlib", "rich", "timm", "torch._dynamo", "torchvision", "yaml"}
LIST_IMPORTS = """
import sys
from d2o.cli.main import run
try:
    assert run(sys.argv[1:]) == 0
finally:
    print(" ".join(["imported:", *sys.modules]))
"""


@pytest.mark.parametrize("command", IMPORTS)
def test_a_command_imports_little(command, tmp_path):
    program = [sys.executable, "-c", LIST_IMPORTS, *command.split()]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    names = set(done.stdout.rpartition("imported:")[2].split())
    assert len([name for name in names if name.split(".")[0] == "d2o"]) <= IMPORTS[command]
    if command.startswith(("--help", "sample", "inspect", "evaluate", "export")):
        assert not names & HEAVY


def test_only_recipes_name_the_class_of_an_objective():
    """A new objective is one record in one file and a line in a table: nobody else asks which one it is."""
    names = {objective.__name__ for objective in objectives.OBJECTIVES.values()}
    for module, file in MODULES.items():
        if folder(module) == "objectives" or module in ("d2o.training.methods", "d2o.training.recipes"):
            continue
        words = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        assert not words & names, f"{module} names {words & names}"


def test_no_method_is_looked_for_by_its_name():
    """`getattr(x, "name", default)` is for data that may lack a field; what may be called stands in a base class."""
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Call)):
                continue
            inner = node.func.func
            assert not (isinstance(inner, ast.Name) and inner.id == "getattr" and len(node.func.args) == 3), module


def test_a_denoiser_stays_as_it_was_made():
    fields = set(inspect.signature(Denoiser).parameters)
    for module, file in MODULES.items():
        assignments = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Assign)]
        for node in assignments:
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in fields:
                    own = isinstance(target.value, ast.Name) and target.value.id == "self"
                    assert own, f"{module}, line {node.lineno}: assigns .{target.attr}; make another with .replace()"


def test_the_project_needs_nothing_from_outside_it():
    outside = ["/" + "work/", "../" + "shared", "/home" + "/", "/root" + "/"]
    for file in [*SOURCE.rglob("*.py"), *TESTS.rglob("*.py")]:
        found = [place for place in outside if place in file.read_text()]
        assert not found, f"{file.name} mentions {found}"


class TestTheReaderOfImports:
    """The other tests would pass if imports were overlooked."""

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("import d2o", {"d2o"}),
            ("import d2o.cli.main as m", {"d2o.cli.main"}),
            ("from d2o import backbones", {"d2o.backbones"}),
            ("from d2o.cli import main", {"d2o.cli.main"}),
            ("from d2o.cli.main import run", {"d2o.cli.main"}),
            ("from .ema import update_ema", {"d2o.training.ema"}),
            ("from . import ema", {"d2o.training.ema"}),
            ("from ..cli import main", {"d2o.cli.main"}),
            ("from .. import metrics", {"d2o.metrics"}),
            ("def f():\n    if True:\n        from d2o.cli.main import run", {"d2o.cli.main"}),
            ("import torch, d2operations\nfrom torch import d2o", set()),
        ],
    )
    def test_it_finds(self, text, found):
        assert set(imports("d2o.training.loop", text, False)) == found

    def test_it_finds_in_a_package(self):
        assert set(imports("d2o.training", "from .ema import a\nfrom ..cli import main", True)) == {
            "d2o.training.ema",
            "d2o.cli.main",
        }
