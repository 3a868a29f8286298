"""Are drawn pictures recognised as their class?  By a classifier that the training pictures teach here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.checkpoints.cache import cached
from calotype.errors import InputError
from calotype.evaluation.concepts import share

EDITION = "3 levels of 24, 48 and 96 channels"
SIDE = 64
"""Pixels a side that are looked at, at most."""
SEEN = 240_000
"""Pictures that a classifier is taught with, repetitions counted, at most."""
EPOCHS = 40
"""Times that it sees each of them, at most."""
BATCH = 128
RATE = 5e-3
SHIFT = 14
"""One part in so many of the side is how far pictures are moved while it learns."""


def network(classes: int) -> nn.Sequential:
    """Pictures (B 3 S S) in [-1, 1] to logits (B C): convolutions in three levels, the mean of the last."""
    layers = [*_convolution(3, 24), nn.MaxPool2d(2)]
    layers += [*_convolution(24, 48), *_convolution(48, 48), nn.MaxPool2d(2)]
    layers += [*_convolution(48, 96), *_convolution(96, 96)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))


def _convolution(before: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def looked_at(pictures: Tensor) -> Tensor:
    """uint8 pictures (N 3 H W) as the classifier sees them: (N 3 S S) uint8, S at most 64."""
    if pictures.shape[-1] <= SIDE:
        return pictures
    parts = [
        F.interpolate(part.float(), (SIDE, SIDE), mode="area").round().byte() for part in pictures.split(256)
    ]
    return torch.cat(parts)


def taught(pictures: Tensor, labels: Tensor, classes: int, *, seen: int = SEEN, seed: int = 0) -> nn.Module:
    """A classifier of uint8 pictures (N 3 H W) with labels (N), each picture seen at most 40 times."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = network(classes)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    small, batch = looked_at(pictures), min(BATCH, len(pictures))
    furthest = small.shape[-1] // SHIFT
    steps = max(1, min(seen, EPOCHS * len(small)) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    order = torch.randperm(len(small), generator=generator)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(small), generator=generator)])
        rows, order = order[:batch], order[batch:]
        moved = torch.randint(-furthest, furthest + 1, (2,), generator=generator).tolist()
        x = _signed(small[rows].roll(moved, (2, 3)), device)
        loss = F.cross_entropy(net(x), labels[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    return net


def judge(pictures: Tensor, labels: Tensor, classes: int, content: str) -> nn.Module:
    """`taught`, once for pictures of this `content` hash; from the cache afterwards."""

    def compute() -> dict[str, Tensor]:
        state = taught(pictures, labels, classes).state_dict()
        return {name: value.cpu().contiguous() for name, value in state.items()}

    found = cached(f"classifier {EDITION} {SEEN} {content} {tuple(pictures.shape)} {classes}", compute)
    net = network(classes)
    net.load_state_dict(found)
    return net.eval()


@torch.no_grad()
def recognised(net: nn.Module, pictures: Tensor, labels: Tensor) -> list[bool]:
    """For each uint8 picture (N 3 H W): does the classifier say its label (N)?"""
    device = next(net.parameters()).device
    found = [net(_signed(part, device)).argmax(1).cpu() for part in looked_at(pictures).split(500)]
    right: list[bool] = (torch.cat(found) == labels).tolist()
    return right


def label_figures(
    drawn: Tensor,
    meant: Tensor,
    training: tuple[Tensor, Tensor],
    real: tuple[Tensor, Tensor],
    classes: Sequence[str],
    content: str,
) -> dict[str, Any]:
    """Figures of drawn pictures uint8 (N 3 H W) `meant` for classes (N), against (pictures, labels) of the
    training split, whose hash is `content`, and of those measured.

    accuracy   the share recognised as their class, "by_class" too; under "real" the same of the real pictures
    teaching   the share of the real pictures recognised by a classifier that was taught by drawn ones alone
               (Ravuri & Vinyals 2019, arXiv 1905.10887); under "real" by as many real ones

    InputError where nothing was drawn of a class.
    """
    count = len(classes)
    if missing := [name for i, name in enumerate(classes) if not bool((meant == i).any())]:
        raise InputError(f"No picture of {missing[0]!r} was drawn; draw more with samples.")
    net = judge(*training, count, content)
    hits = recognised(net, drawn, meant)
    by_class = {
        name: sum(hit for hit, label in zip(hits, meant.tolist(), strict=True) if label == i)
        / int((meant == i).sum())
        for i, name in enumerate(classes)
    }
    few = torch.randperm(len(training[0]), generator=torch.Generator().manual_seed(0))[: len(drawn)]
    yardstick = taught(training[0][few], training[1][few], count)
    return {
        "protocol": {"classifier": EDITION, "taught_by": len(training[0]), "drawn": len(drawn)},
        "accuracy": share(hits) | {"by_class": by_class},
        "teaching": share(recognised(taught(drawn, meant, count), *real)),
        "real": {
            "accuracy": share(recognised(net, *real)),
            "teaching": share(recognised(yardstick, *real)),
        },
    }


def _signed(pictures: Tensor, device: torch.device) -> Tensor:
    return (pictures.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
