"""What conditional discriminators do with classes: each class has a learned vector, compared with the features."""

from torch import Tensor, nn


class ClassVectors(nn.Module):
    """Map labels [N] to learned vectors [N, 64]: an embedding and a linear projection of it."""

    width = 64

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, self.width)
        self.projection = nn.Linear(self.width, self.width)

    def forward(self, label: Tensor) -> Tensor:
        return self.projection(self.embedding(label))


def check_label(label: Tensor | None, classes: int) -> Tensor | None:
    """Return the label [N], or None without classes; a missing one is a ValueError."""
    if classes and label is None:
        raise ValueError(f"This discriminator knows {classes} classes: give the label of every image.")
    return label if classes else None
