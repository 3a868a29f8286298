"""How well a class-conditional model draws its classes: a classifier of real pictures reads its samples, and
a classifier of samples alone reads real test pictures.

    python benchmarks/class_samples.py MODEL FOLDER [--count 500] [--guidance 2.5]

FOLDER has class folders under train/ and test/ (`calotype data mnist`, `calotype data fashion-mnist`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from calotype.checkpoints import native
from calotype.conditioning.conditioning import Conditioning
from calotype.data.folder import PictureFolder
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.guidance import guided
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def classifier() -> nn.Sequential:
    """A small convolutional network of grey 28x28 pictures in [-1, 1]: (B 1 28 28) -> (B 10)."""
    layers: list[nn.Module] = []
    for before, width in ((1, 32), (32, 64), (64, 128)):
        for i in range(2):
            layers += [nn.Conv2d(width if i else before, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 10)).to(DEVICE)


def fitted(pictures: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    """A classifier taught the pictures, shifted by up to two pixels."""
    torch.manual_seed(0)
    net, batch = classifier(), 128
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    steps = epochs * (len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(pictures) // batch) == 0:
            order = torch.randperm(len(pictures), device=DEVICE)
        rows = order[:batch].clone()
        order = order.roll(-batch)
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = nn.functional.cross_entropy(net(pictures[rows].roll(shift, (2, 3))), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Share of the pictures that the classifier puts where they belong."""
    found = torch.cat([net(part).argmax(1) for part in pictures.split(1000)])
    return float((found == labels).float().mean())


def real(folder: Path, split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Grey pictures (N 1 28 28) in [-1, 1] and their labels."""
    found = PictureFolder(folder, split=split)
    pictures = found.load_all(28)[:, :1].to(DEVICE).float() / 127.5 - 1
    return pictures, torch.tensor([record.label for record in found.records], device=DEVICE), found.classes


@torch.no_grad()
def samples(path: Path, count: int, guidance: float | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """`count` pictures of each class by the model's own defaults, seeds from 0, and their labels."""
    model = native.load(path, device=DEVICE)
    own, schedule = model.config.defaults, model.denoiser.schedule
    classes = len(model.config.classes)
    labels = torch.arange(classes, device=DEVICE).repeat_interleave(count)
    sigmas = GRIDS[own.grid](schedule)(own.steps, schedule.sigma_min, schedule.sigma_max)
    drawn = []
    for part in torch.arange(len(labels)).split(250):
        told = Conditioning(label=labels[part.to(DEVICE)])
        none = Conditioning(label=torch.full_like(labels[part.to(DEVICE)], classes))
        noise = PictureNoise(part.tolist())
        x = noise(torch.zeros(len(part), 3, 28, 28, device=DEVICE)) * sigmas[0]
        for step in SAMPLERS[own.sampler](
            guided(model.denoiser, (told, none), own.guidance if guidance is None else guidance),
            x,
            sigmas,
            noise,
        ):
            x = step.x
        drawn.append(((x.mean(1, keepdim=True).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)
    return torch.cat(drawn), labels, model.config.classes


def main() -> None:
    """Print the three accuracies as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--guidance", type=float, help="Default: the model's own.")
    asked = parser.parse_args()
    pictures, labels, classes = real(asked.folder, "train")
    tested, truth, _ = real(asked.folder, "test")
    drawn, meant, names = samples(asked.model, asked.count, asked.guidance)
    if names != classes:
        parser.error(f"the model draws {', '.join(names)}, the folder holds {', '.join(classes)}")
    judge = fitted(pictures, labels, asked.epochs)
    each = {
        name: round(accuracy(judge, drawn[meant == i], meant[meant == i]), 3) for i, name in enumerate(names)
    }
    taught = fitted(drawn, meant, max(asked.epochs, asked.epochs * len(pictures) // len(drawn) // 4))
    found = {
        "samples": len(drawn),
        "test_pictures": len(tested),
        "judge_on_test_pictures": round(accuracy(judge, tested, truth), 4),
        "judge_on_samples": round(accuracy(judge, drawn, meant), 4),
        "judge_on_samples_by_class": each,
        "taught_by_samples_on_test_pictures": round(accuracy(taught, tested, truth), 4),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
