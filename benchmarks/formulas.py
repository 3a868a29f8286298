"""The formulas of `calotype evaluate` beside torch-fidelity, pytorch-fid, scikit-image, on the same features.

    pip install --no-deps --target reference torch-fidelity==0.4.0 pytorch-fid==0.3.0
    python benchmarks/formulas.py reference

Both want torchvision for reading pictures; features need none, so it is left out here.
"""

from __future__ import annotations

import json
import sys
from unittest.mock import MagicMock

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio

from calotype.evaluation.frechet import frechet
from calotype.evaluation.kid import mmd
from calotype.evaluation.manifold import per_picture
from calotype.evaluation.reconstruction import psnr


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets (300 16) of float64, from numpy's Mersenne twister, which is the same everywhere."""
    random = np.random.RandomState(0)
    mixing = random.standard_normal((16, 16)) / 4
    first = random.standard_normal((300, 16)) @ mixing
    second = random.standard_normal((300, 16)) @ mixing * 1.2 + 0.3
    return torch.from_numpy(first), torch.from_numpy(second)


def ours() -> dict[str, float]:
    """By Calotype."""
    a, b = features()
    found = per_picture(a, b, 3, 3)
    return {
        "frechet": frechet(a, b),
        "kid": mmd(a, b),
        "precision": float(found["precision"].double().mean()),
        "recall": float(found["recall"].double().mean()),
        "psnr": float(psnr(((a - b) ** 2).mean())),
    }


def theirs(place: str) -> dict[str, dict[str, float]]:
    """By the libraries in the folder `place`, and scikit-image."""
    sys.path.append(place)
    for name in ("", ".transforms", ".transforms.functional", ".models", ".datasets"):
        sys.modules["torchvision" + name] = MagicMock()
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    a, b = features()
    one, other = (metric_fid.fid_features_to_statistics(x) for x in (a, b))
    kernel = {"kid_subsets": 1, "kid_subset_size": len(a), "verbose": False}
    precision, recall = metric_prc.calculate_precision_recall_full(a, b, 3)
    return {
        "torch-fidelity": {
            "frechet": metric_fid.fid_statistics_to_metric(one, other, False)[metric_fid.KEY_METRIC_FID],
            "kid": metric_kid.kid_features_to_metric(a, b, **kernel)[metric_kid.KEY_METRIC_KID_MEAN],
            "precision": precision,
            "recall": recall,
        },
        "pytorch-fid": {
            "frechet": float(calculate_frechet_distance(one["mu"], one["sigma"], other["mu"], other["sigma"]))
        },
        "scikit-image": {"psnr": float(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=2))},
    }


if __name__ == "__main__":
    print(json.dumps({"calotype": ours(), **theirs(sys.argv[1])}, indent=1))
