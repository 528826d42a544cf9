"""Each message that the page on troubles quotes is one that d2o's source can still say."""

import ast
import html
import re
from functools import cache

import pytest

from .test_commands import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
MESSAGES = [" ".join(block.split()) for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
FIELD = "\0"


@cache
def said() -> str:
    """Return all texts of the source, a field of a formatted one as FIELD, and those of the page in a browser."""
    texts = []
    for file in sorted((ROOT / "src/d2o").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            words = [part.value if isinstance(part, ast.Constant) else FIELD for part in parts]
            texts.append("".join(word for word in words if isinstance(word, str)))
    pages = sorted((ROOT / "src/d2o/pages").rglob("*.html"))
    texts += [" ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text())).split()) for page in pages]
    return "\n".join(texts)


def fragments(message: str) -> list[str]:
    """Return the parts of a message, between what differs and joints, that are long enough to be of one text alone."""
    parts = (part.strip(" .,") for part in re.split(r"\.\.\.|[;:] ", message))
    return [part for part in parts if len(part) >= 12]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.strip(". ")[:40])
def test_a_message_that_is_quoted_is_still_said(message):
    assert fragments(message), "nothing of it is distinctive"
    for fragment in fragments(message):
        found = fragment in said()
        assert found, f"d2o says no more: {fragment}"


def test_the_page_has_a_dozen_of_them_and_a_made_up_one_is_found_out():
    assert len(MESSAGES) >= 12
    assert "The memory does suffice for" not in said() and fragments("... is ...") == []
