"""What conditional discriminators do with classes, words and text: each has a vector, compared with the features."""

from typing import Any

from torch import Tensor, nn

from d2o.diffusion.condition import Text, TextWidth, Vocabulary


class ConditionVectors(nn.Module):
    """Map classes [N], words [N, L] with 0 for none, or a `Text` to learned vectors [N, 64].

    Classes and words have a vector each, whose mean is projected; of a text it is the encoders' own, normalised.
    """

    width = 64

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        is_text = isinstance(vocabulary, TextWidth)
        inner = vocabulary.width if is_text else self.width
        self.embedding = nn.LayerNorm(inner) if is_text else nn.Embedding(vocabulary, inner)
        self.projection = nn.Linear(inner, self.width)

    def forward(self, condition: Any) -> Tensor:
        if isinstance(condition, Text):
            return self.projection(self.embedding(condition.summarise().float()))
        vectors = self.embedding(condition)
        if condition.dim() == 2:
            there = (condition != 0).unsqueeze(2).float()
            vectors = (vectors * there).sum(1) / there.sum(1).clamp(min=1)
        return self.projection(vectors)


def check_condition(condition: Any, vocabulary: Vocabulary) -> Any:
    """Return the condition, or None for a discriminator that knows none; a missing one is a ValueError."""
    if vocabulary and condition is None:
        told = "text" if isinstance(vocabulary, TextWidth) else f"{vocabulary} classes or words"
        raise ValueError(f"This discriminator is conditioned on {told}: give the condition of every image.")
    return condition if vocabulary else None
