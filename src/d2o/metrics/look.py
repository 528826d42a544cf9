"""Old names, until analysis and benchmarks say `Sample` and `Evaluator.measure`."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from .sample import Sample as Look
from .sample import measure

__all__ = ["Look", "look"]


def look(stream, name, space, embed, *, keep_pixels=False):
    class Network(SimpleNamespace):
        def __call__(self, images):
            return torch.from_numpy(embed(images))

    return measure(replace(stream, name=name), Network(name=space), keep_pixels=keep_pixels)  # pyright: ignore
