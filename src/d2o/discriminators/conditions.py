"""What conditional discriminators do with classes and words: each has a learned vector, compared with the features."""

from torch import Tensor, nn


class ConditionVectors(nn.Module):
    """Map classes [N], or words [N, L] with 0 for none, to learned vectors [N, 64]: a linear projection of their mean.

    `count` is how many classes or words there are.
    """

    width = 64

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, self.width)
        self.projection = nn.Linear(self.width, self.width)

    def forward(self, condition: Tensor) -> Tensor:
        vectors = self.embedding(condition)
        if condition.dim() == 2:
            there = (condition != 0).unsqueeze(2).float()
            vectors = (vectors * there).sum(1) / there.sum(1).clamp(min=1)
        return self.projection(vectors)


def check_condition(condition: Tensor | None, count: int) -> Tensor | None:
    """Return the condition, or None for a discriminator that knows none; a missing one is a ValueError."""
    if count and condition is None:
        raise ValueError(f"This discriminator knows {count} classes or words: give the condition of every image.")
    return condition if count else None
