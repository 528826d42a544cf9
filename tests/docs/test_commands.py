"""Every command and program of the documentation is run, in its page's order, on stand-ins and at reduced size.

Lines with placeholders say what may be written: their options are
read by the commands' own parsers. What is no command of d2o's is in test_other_commands.py.
"""

import ast
import re
import shlex
import tomllib
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest

from d2o.cli.completion import options_of
from d2o.cli.main import COMMANDS, run
from d2o.cli.options import parse

from .stand_ins import ANSWERED, REQUESTS, prepare, quick, reduced, stand_ins

__all__ = ["quick", "stand_ins"]

ROOT = Path(__file__).parent.parent.parent
CARD = ROOT / "src/d2o/checkpoints/shipped/README.md"
PAGES = [
    ROOT / "README.md",
    CARD,
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if "_build" not in file.parts),
]

FEWER = ("zip(digits.images,", "zip(digits.images[:60],")  # of the 1,797 digits that the tutorial writes
PROGRAMS_ONLY_READ = {
    "why": "needs the runs of the demo",
    "coming-from": "needs a model of diffusers",
    "README": "run by tests/test_readme.py",
}
EXAMPLES = {" ...": "", " MB": " 512", "STUDY": "spectrum"}
"""What stands for a placeholder that its option would not take as it is."""
TORCHRUN = r"(?:srun )?torchrun .*-m "


def commands(text: str) -> list[str]:
    """Return commands in fenced blocks and Python programs, in order, programs with their fence's first line."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            found.append(f"python\n{block}")
        lines = block.replace("\\\n", " ").splitlines() if not language else []
        found += [line for line in lines if re.match(rf"(OMP_NUM_THREADS=1 )?d2o |{TORCHRUN}d2o |curl |wrk ", line)]
    return found


def is_synopsis(line: str) -> bool:
    """Return whether a line says what may be written, instead of being a command."""
    return re.search(r"\b(MODEL|TEACHER|DATA|RECIPE)\b| \[--|\[MODEL", line) is not None


def arguments(line: str) -> list[str]:
    """Return the words after `d2o`; several processes are one here, and what is printed goes nowhere."""
    line = re.sub(rf"^({TORCHRUN}|OMP_NUM_THREADS=1 )(?=d2o )", "", line)
    return shlex.split(line.partition(" > ")[0])[1:]


def is_request(line: str) -> bool:
    """Return whether a line asks the server of its page."""
    return line.startswith(("curl ", "wrk "))


def read(line: str) -> None:
    """Read a command's options as it does itself, without running it."""
    name, *rest = arguments(line)
    if studies := getattr(import_module(f"d2o.cli.commands.{name}"), "STUDIES", None):
        record = studies[rest.pop(0)]
    else:
        record = options_of(name)
    parse(record, name, rest, None)


def written_out(line: str) -> list[str]:
    """Return the commands that a line with placeholders stands for: with all of its options, and every choice."""
    for placeholder, example in EXAMPLES.items():
        line = line.replace(placeholder, example)
    words = re.sub(r"[\[\]]", "", line).split(" ")
    return [" ".join(choice) for choice in product(*(word.split("|") for word in words))]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())], ids=lambda page: page.stem)
def test_commands_run(page, stand_ins, quick, tmp_path, monkeypatch, capsys):
    prepare(page, stand_ins, tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = commands(page.read_text())
    REQUESTS[:] = [line for line in lines if is_request(line)]
    ANSWERED.clear()
    for line in lines:
        if line.startswith("python\n"):
            ast.parse(line.partition("\n")[2])
            if page.stem not in PROGRAMS_ONLY_READ:
                program = line.partition("\n")[2].replace(*FEWER)
                exec(compile(program, page.name, "exec"), {})
        elif is_synopsis(line):
            for command in written_out(line):
                read(command)
        elif not is_request(line):
            try:
                code = run(reduced(arguments(line)))
            except SystemExit as stop:
                code = stop.code
            printed = capsys.readouterr()
            assert code in (0, None), f"{page.name}: {line}\n{printed.err}"
            if " > " in line:
                file = Path(shlex.split(line)[-1])
                file.parent.mkdir(parents=True, exist_ok=True)  # also below a folder that is called ~ here
                file.write_text(printed.out)
    assert set(REQUESTS) <= ANSWERED, f"{page.name} asks what its server does not answer"


def test_the_table_of_commands_can_be_read():
    rows = re.findall(r"^\| `(d2o [^`]+)`", (ROOT / "docs/command-line.md").read_text(), re.MULTILINE)
    assert len(rows) == len(COMMANDS)
    for row in rows:
        for line in written_out(row):
            read(line)


def test_every_extra_that_is_named_can_be_installed():
    """d2o is installed from its folder, so that `pip install 'd2o[...]'` would find nothing."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [*PAGES, *(ROOT / "src").rglob("*.py")]
    named = set()
    for file in sources:
        text = file.read_text()
        assert "install 'd2o" not in text, f"{file.name} installs d2o by its name"
        named |= set(re.findall(r"install -e '\.\[(\w+)\]'", text))
    assert {"serve", "export", "diffusers", "tensorboard"} <= named <= set(extras)


def test_the_tutorial_installs_before_it_begins():
    text = (ROOT / "docs/tutorial.md").read_text()
    (block,) = re.findall(r"```\n(git clone .*?)```", text, re.DOTALL)
    assert "source .venv/bin/activate" in block and (ROOT / "constraints.txt").exists()
    assert text.index(block) < text.index("```\nd2o ")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_can_be_read(name):
    document = import_module(f"d2o.cli.commands.{name}").__doc__ or ""
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
    assert written_out("d2o a [B ...] --c d|e [--f MB]") == ["d2o a B --c d --f 512", "d2o a B --c e --f 512"]
