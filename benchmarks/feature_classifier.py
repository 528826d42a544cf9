"""A feature space that shares nothing with ImageNet: a small classifier, trained on a study's own images.

python benchmarks/feature_classifier.py --data images.npz --images 400000 --out classifier.safetensors
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from d2o.data.datasets import Images, open_images
from d2o.data.files import to_float
from d2o.files import atomic

WIDTH, FEATURES, BATCH, SHIFT = 48, 192, 128, 2


class Residual(nn.Module):
    """Two normalised convolutions beside a shortcut; the first may halve the image."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(channels, width, 1, stride) if stride > 1 or channels != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class Classifier(nn.Module):
    """Map images [N,C,H,W] in [-1, 1] to class logits; `features` are what its last layer sees, [N, 192]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            Residual(WIDTH, WIDTH),
            Residual(WIDTH, 2 * WIDTH, 2),
            Residual(2 * WIDTH, FEATURES, 2),
        )
        self.last = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


def train_classifier(images: Images, held_out: Images, count: int, mirror: bool) -> tuple[Classifier, float]:
    """Return a classifier after `count` images, shifted and perhaps mirrored, and its accuracy on others."""
    torch.manual_seed(0)
    network = Classifier(images.shape[0], images.num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=-(-count // BATCH))
    batches = images.batches(BATCH)
    for _ in range(-(-count // BATCH)):
        x, label, *_ = next(batches)
        assert label is not None
        x = F.pad(x, [SHIFT] * 4, mode="replicate")
        top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
        x = x[..., top : top + images.shape[1], left : left + images.shape[2]]
        if mirror and torch.rand(()) < 0.5:
            x = x.flip(3)
        loss = F.cross_entropy(network(x.contiguous(memory_format=torch.channels_last)), label, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    network.eval()
    return network, accuracy_of(network, held_out)


@torch.no_grad()
def accuracy_of(network: Classifier, images: Images) -> float:
    """Return the share of images that are classified as they are labelled."""
    assert images.labels is not None
    parts = np.split(np.arange(len(images)), range(500, len(images), 500))
    guesses = [network(to_float(images.pixels(part))).argmax(1).numpy() for part in parts]
    return float((np.concatenate(guesses) == images.labels).mean())


def save(path: Path, network: Classifier, images: Images, accuracy: float) -> None:
    """Write a classifier with what it is; its numbers are rounded to 16 bits, so that a repository can hold it."""
    about = {"channels": images.shape[0], "classes": images.num_classes, "accuracy": accuracy}
    state = {
        name: t.contiguous().to(torch.float16) for name, t in network.state_dict().items() if t.is_floating_point()
    }
    with atomic(path) as temporary:
        save_file(state, temporary, {"classifier": json.dumps(about)})


class Embed:
    """Map uint8 images [n,H,W,C] to the classifier's features [n,192]."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["classifier"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        self.accuracy = about["accuracy"]
        self.network = Classifier(about["channels"], about["classes"]).eval()
        self.network.load_state_dict(state, strict=False)  # without batch norm's counters

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.network.features(to_float(pixels)).numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=400_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    learned, others = (data := open_images(options.data)).split(len(data) * 9 // 10)
    classifier, accuracy = train_classifier(learned, others, options.images, mirror=True)
    save(options.out, classifier, data, accuracy)
    print(f"{options.out}: {accuracy:.1%} of {len(others):,} held-out images are classified as they should be")
