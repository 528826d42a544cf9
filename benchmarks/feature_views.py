"""A feature space that has seen neither ImageNet nor a label: two views of an image should have like features.

python benchmarks/feature_views.py --data images.npz --images 200000 --out views.safetensors

SimCLR (arXiv 2002.05709) on the network of `feature_classifier`: views are random crops, mirrored, with other colours.
What the file names as accuracy is that of a linear layer on the frozen features, fitted by least squares.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from feature_classifier import FEATURES, Classifier, accuracy_of, save
from torch import Tensor, nn

from d2o.data.datasets import Images, open_images
from d2o.data.files import to_float

BATCH, WIDTH, TEMPERATURE = 256, 128, 0.2
SMALLEST_CROP, COLOURS, GREY = 0.3, 0.4, 0.2
RIDGE = 1e-2


def view(x: Tensor, mirror: bool) -> Tensor:
    """Return every image [N,C,H,W] cropped to a random window, mirrored or not, and in other colours."""
    count, channels = x.shape[:2]
    side = torch.empty(count).uniform_(SMALLEST_CROP, 1).sqrt()
    stretch = torch.empty(count).uniform_(3 / 4, 4 / 3).sqrt()
    sides = torch.stack([(side * stretch).clamp(max=1), (side / stretch).clamp(max=1)], 1)
    place = (1 - sides) * torch.empty(count, 2).uniform_(-1, 1)
    flip = torch.where(torch.rand(count) < 0.5 * mirror, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = sides[:, 0] * flip, sides[:, 1], place
    x = F.grid_sample(x, F.affine_grid(affine, list(x.shape), False), padding_mode="reflection", align_corners=False)
    light, contrast, colour = (torch.empty(3, count, 1, 1, 1).uniform_(1 - COLOURS, 1 + COLOURS)).unbind()
    x = x * contrast + (light - 1)
    if channels > 1:
        grey = x.mean(1, keepdim=True)
        x = grey + colour * (torch.rand(count, 1, 1, 1) >= GREY) * (x - grey)
    return x


def contrast_loss(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean cross-entropy of finding each vector's partner [N,D] among all others (NT-Xent)."""
    both = F.normalize(torch.cat([one, other]), dim=1)
    likeness = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(both)).roll(len(one)))


def train_views(images: Images, held_out: Images, count: int, mirror: bool) -> tuple[Classifier, float]:
    """Return a network after two views each of `count` images, and the accuracy of a linear layer on its features."""
    torch.manual_seed(0)
    network = Classifier(images.shape[0], images.num_classes).to(memory_format=torch.channels_last)
    head = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, WIDTH))
    moving = [*network.layers.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(moving, weight_decay=1e-4)
    steps = -(-count // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    batches = images.batches(BATCH)
    for _ in range(steps):
        x = next(batches)[0]
        views = (view(x, mirror).contiguous(memory_format=torch.channels_last) for _ in range(2))
        loss = contrast_loss(*(head(network.features(seen)) for seen in views))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    network.eval()
    fit_probe(network, images)
    return network, accuracy_of(network, held_out)


@torch.no_grad()
def fit_probe(network: Classifier, images: Images) -> None:
    """Let the last layer be the least-squares classifier of the features."""
    assert images.labels is not None
    order = np.arange(min(len(images), 20_000))
    rows = [
        network.features(to_float(images.pixels(part))) for part in np.array_split(order, max(len(order) // 500, 1))
    ]
    values = torch.cat(rows).double()
    centre = values.mean(0)
    aims = F.one_hot(torch.from_numpy(images.labels[order]).long(), images.num_classes).double()
    spread = (values - centre).T @ (values - centre)
    ridge = RIDGE * spread.diagonal().mean() * torch.eye(FEATURES, dtype=torch.float64)
    weight = torch.linalg.solve(spread + ridge, (values - centre).T @ (aims - aims.mean(0)))
    network.last.weight.copy_(weight.T)
    network.last.bias.copy_(aims.mean(0) - centre @ weight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    learned, others = (data := open_images(options.data)).split(len(data) * 9 // 10)
    trained, probed = train_views(learned, others, options.images, mirror=True)
    save(options.out, trained, data, probed)
    print(f"{options.out}: a linear layer on its features tells {probed:.1%} of {len(others):,} held-out images")
