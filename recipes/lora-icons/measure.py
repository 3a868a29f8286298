"""What a LoRA of a style does: `python recipes/lora-icons/measure.py LORA datasets/blueprint OUT.png`.

Held-out concepts are drawn in the style's words, without and with the LoRA, with the same seeds.  Features
are EfficientNet-Lite0's (`pip install 'calotype[evaluation]'`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import calotype
from calotype.checkpoints import native, shelf
from calotype.evaluation.features import Features
from calotype.evaluation.intervals import of_mean
from calotype.evaluation.kid import kid

COUNT = 64


def alignment(drawn: Tensor, style: Tensor) -> Tensor:
    """Each drawn picture's (N D) mean cosine with the style's held-out pictures (M D)."""
    return (F.normalize(drawn, dim=1) @ F.normalize(style, dim=1).T).mean(1)


def main(lora: Path, folder: Path, sheet: Path) -> None:
    records = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    held_out = [record for record in records if record["split"] == "validation"]
    pictures = np.stack([np.asarray(Image.open(folder / r["file_name"]).convert("RGB")) for r in held_out])
    studio = calotype.load("icons")
    before = native.weights_sha256(all_tensors(studio))
    rows: dict[str, list[Image.Image]] = {"without": [], "with": []}
    for seed, record in enumerate(held_out[:COUNT]):
        for name, loras in (("without", ()), ("with", (str(lora),))):
            rows[name] += studio.generate([record["text"]], seed=seed, loras=loras)
    after = native.weights_sha256(all_tensors(studio))
    features = Features()
    style = features(torch.from_numpy(pictures).permute(0, 3, 1, 2))  # (N H W 3) -> (N 3 H W)
    found = {name: features(torch.stack([as_tensor(p) for p in drawn])) for name, drawn in rows.items()}
    aligned = {name: alignment(drawn, style) for name, drawn in found.items()}
    own = F.normalize(style, dim=1)
    ceiling = float(((own @ own.T).sum() - len(own)) / (len(own) * (len(own) - 1)))
    pairs = {name: F.cosine_similarity(drawn, style[:COUNT]).mean().item() for name, drawn in found.items()}
    told = {
        "pictures": COUNT,
        "alignment": {name: round(float(values.mean()), 4) for name, values in aligned.items()},
        "gain_95": [round(end, 4) for end in of_mean(aligned["with"] - aligned["without"])],
        "ceiling": round(ceiling, 4),
        "same_concept": {name: round(value, 4) for name, value in pairs.items()},
        "kid": {name: round(kid(drawn, style)["kid"], 4) for name, drawn in found.items()},
        "bytes": lora.stat().st_size,
        "share": round(lora.stat().st_size / shelf.find("icons").stat().st_size, 5),
        "same_weights_after": before == after,
    }
    print(json.dumps(told, indent=1))
    canvas = Image.new("RGB", (10 * 130 - 2, 3 * 130 - 2), "white")
    for i in range(10):
        for row, picture in enumerate((rows["without"][i], rows["with"][i], Image.fromarray(pictures[i]))):
            canvas.paste(picture, (i * 130, row * 130))
    canvas.save(sheet)


def all_tensors(studio: calotype.Studio) -> dict[str, Tensor]:
    parts = studio.model.parts().items()
    return {f"{part}.{name}": value for part, net in parts for name, value in net.state_dict().items()}


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)  # (H W 3) -> (3 H W)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
