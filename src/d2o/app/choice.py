"""The choices above the tabs, which all of them share: model, teacher, class."""

import functools
import html
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from .models import Models

BY_SEED = "by seed"


class Choice(NamedTuple):
    """The models, and the components that choose among them."""

    models: Models
    model: gr.Dropdown
    teacher: gr.Dropdown
    label: gr.Dropdown


class Refresh(NamedTuple):
    """What a tab does when another model was chosen."""

    function: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]


def classes(models: Models, name: str) -> list[str]:
    """Return what may be chosen as a model's class."""
    return [BY_SEED, *map(str, range(models.get(name).num_classes))]


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function tell the page in a sentence what was wrong with its input, and never more than that.

    What is not the input's fault is printed on the terminal.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def telling_all(*values: Any) -> Any:
            try:
                yield from function(*values)
            except Exception as error:
                raise said(error) from None

        return telling_all

    @functools.wraps(function)
    def telling(*values: Any) -> Any:
        try:
            return function(*values)
        except Exception as error:
            raise said(error) from None

    return telling


def said(error: Exception) -> gr.Error:
    """Return what the page shows of an error; it is shown as HTML, so that nothing in it may be."""
    if not isinstance(error, ValueError):
        traceback.print_exception(error, file=sys.stderr)
        return gr.Error("That did not work; the terminal of d2o app tells why.", print_exception=False)
    return gr.Error(html.escape(str(error), quote=False), title="Please change this", print_exception=False)
