"""Which settings should be the model's own: concept recall and colour by steps, guidance, grid and sampler.

    python benchmarks/settings.py datasets/icons --out docs/settings.json

asks for concepts that no figure of docs/measured.md is made of: the `--count` after the 200 of
`calotype evaluate`, in the same order.  A setting that is in the file already is not drawn again, so that a
stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import calotype
from calotype.data.folder import PictureFolder
from calotype.evaluation.concepts import Concepts, chosen_concepts, hits, share
from calotype.evaluation.content import stack
from calotype.evaluation.features import Features

ASKED_ELSEWHERE = 200
OWN: dict[str, Any] = {"steps": 20, "guidance": 4.0, "sampler": "dpmpp_2m", "grid": "raised"}
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 10},
    {"guidance": 2.5},
    {"guidance": 6.0},
    {"guidance": 8.0, "apg": {}},
    {"grid": "trailing"},
    {"sampler": "euler"},
    {"sampler": "unipc"},
    {"steps": 40},
    {"guidance": 8.0},
    {"grid": "karras"},
    {"sampler": "euler_a"},
    {"sampler": "dpmpp_2m_sde"},
    {"steps": 15},
    {"steps": 30},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="icons")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("docs/settings.json"))
    chosen = parser.parse_args()
    studio = calotype.load(chosen.model)
    folder = PictureFolder(chosen.folder, split="train", size=studio.model.config.size)
    every = chosen_concepts(folder.records, ASKED_ELSEWHERE + chosen.count)
    names = every.names[ASKED_ELSEWHERE:]
    concepts = Concepts(names, tuple(r for r in every.records if r.meta["concept"] in set(names)))
    features = Features()
    places = {record.path: index for index, record in enumerate(folder.records)}
    known = features(torch.stack([folder.image(places[record.path]) for record in concepts.records]))
    owners = [str(record.meta["concept"]) for record in concepts.records]
    rows = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else []
    for other in OTHERS:
        setting = OWN | other
        if any(row["setting"] == setting for row in rows):
            continue
        begun = time.perf_counter()
        pictures = studio.generate(list(names), seed=0, **setting)
        seconds = time.perf_counter() - begun
        found = share(hits(features(stack(pictures)), names, known, owners))
        made_by = {"weights": studio.model.weights_hash, "seconds": seconds}
        rows.append({"setting": setting, "recall": found} | made_by)
        print(setting, f"{100 * found['share']:.1f} %", f"{seconds:.0f} s", flush=True)
        scratch = chosen.out.with_suffix(".tmp")
        scratch.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        scratch.replace(chosen.out)


if __name__ == "__main__":
    main()
