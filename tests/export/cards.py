"""Cards as their readers use them: their program is run where the export stands."""

import io
import re
from contextlib import redirect_stdout
from typing import Any

import torch


def program_of(card: str) -> str:
    """Return the one program on a card."""
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```$", card)
    return program


def run_program(card: str) -> Any:
    """Return the images that a card's program makes."""
    found: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()), torch.no_grad():
        exec(compile(program_of(card), "card", "exec"), found)
    return found["images"]
