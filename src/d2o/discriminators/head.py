"""The trained part of the projected discriminator: one small convolutional judge for each projected map."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from d2o.diffusion.condition import Vocabulary
from d2o.kernels.convolution import Convolution

from .batch_norm import SynchronisedBatchNorm
from .conditions import ConditionVectors

WIDTHS = (64, 128, 256, 512)  # by nominal side 64, 32, 16, 8
KERNEL = 4


class Head(nn.Module):
    """Judge a projected map [N, C, S, S]: logits [N, K], one for each place of the last map.

    `level` counts scales from the finest, 0, which is halved four times, to the coarsest, 3, which is halved once;
    fewer times where the map would fall below the last kernel. Class-conditional heads (`classes` > 0) give each
    place a vector, whose dot product with the condition's is the logit.
    """

    def __init__(
        self, channels: int, side: int, level: int, width: int, classes: Vocabulary = 0, synchronise: bool = False
    ) -> None:
        super().__init__()
        normalise = SynchronisedBatchNorm if synchronise else nn.BatchNorm2d
        self.blocks = nn.Sequential()
        for wanted in WIDTHS[level:]:
            if side // 2 < KERNEL:
                break
            convolution = spectral_norm(Convolution(channels, min(wanted, width), KERNEL, stride=2, padding=1))
            channels, side = min(wanted, width), side // 2
            self.blocks.append(nn.Sequential(convolution, normalise(channels), nn.LeakyReLU(0.2, inplace=True)))
        self.classes = ConditionVectors(classes) if classes else None
        outputs = ConditionVectors.width if classes else 1
        self.last = spectral_norm(Convolution(channels, outputs, min(KERNEL, side), bias=False))

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        logits = self.last(self.blocks(features))
        if self.classes is not None:
            assert condition is not None
            logits = (logits * self.classes(condition)[:, :, None, None]).sum(1) / ConditionVectors.width**0.5
        return logits.flatten(1)
