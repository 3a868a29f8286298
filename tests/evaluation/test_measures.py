"""The formulas against closed forms and the reference libraries, on the same features."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import peak_signal_noise_ratio
from sklearn.metrics import roc_auc_score

from calotype.errors import InputError
from calotype.evaluation.frechet import frechet, frechet_distance
from calotype.evaluation.intervals import measured, of_mean, with_intervals
from calotype.evaluation.kid import kid
from calotype.evaluation.manifold import manifold, per_picture, radii
from calotype.evaluation.neighbours import auc, nearest, nearness, thumbnails

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from prdc import compute_prdc


def gaussian(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(1)) / width**0.5
    return torch.randn(count, width, generator=generator) @ mixing + shift


@pytest.mark.parametrize(("first", "second"), [(40, 50), (300, 20), (200, 300)])
def test_frechet_is_its_formula(first: int, second: int) -> None:
    a, b = gaussian(first, 24, 2).double(), gaussian(second, 24, 3, 0.3).double() * 1.2
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    one, other = np.cov(a.T), np.cov(b.T)
    root = np.real(scipy.linalg.sqrtm(one @ other + 1e-12 * np.eye(24)))
    assert frechet(a, b) == pytest.approx(float(means) + np.trace(one + other - 2 * root), rel=1e-4)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_square() -> None:
    a = gaussian(50, 8, 2)
    assert frechet(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-5)
    found = frechet_distance(a, a + 0.5)
    assert found["low"] < found["frechet"] < found["high"]


def test_precision_recall_density_coverage_are_prdcs() -> None:
    drawn, real = gaussian(60, 6, 4, 0.4), gaussian(80, 6, 5)
    for k in (3, 5):
        theirs = compute_prdc(real_features=real.numpy(), fake_features=drawn.numpy(), nearest_k=k)
        mine = per_picture(drawn, real, k, k)
        assert {name: float(values.mean()) for name, values in mine.items()} == pytest.approx(theirs)


def test_manifold_tells_fidelity_from_diversity() -> None:
    real = gaussian(200, 4, 6)
    one_mode = real[:1] + 0.001 * gaussian(200, 4, 7)
    found = manifold(one_mode, real)
    assert found["precision"]["precision"] == 1
    assert found["recall"]["recall"] < 0.05
    assert found["coverage"]["coverage"] < 0.1
    assert found["coverage"]["low"] <= found["coverage"]["coverage"] <= found["coverage"]["high"]
    far = manifold(real + 100, real)
    assert far["precision"]["precision"] == far["recall"]["recall"] == far["density"]["density"] == 0
    with pytest.raises(InputError, match="need 6 pictures of both kinds or more; there are 200 drawn and 4"):
        manifold(real, real[:4])


def test_radii_leave_the_picture_itself_aside() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, 1).tolist() == [1, 1, 2, 4]
    assert radii(line, 2).tolist() == [3, 2, 3, 6]


def test_a_mean_has_the_interval_of_the_normal() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = of_mean(values)
    standard_error = float(values.std() / 20)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.1)
    assert (low + high) / 2 == pytest.approx(float(values.mean()), abs=0.3 * standard_error)
    assert measured("x", torch.full((9,), 2.0)) == {"x": 2, "low": 2, "high": 2, "count": 9}
    assert with_intervals({"x": torch.ones(3)}) == {"x": 1, "intervals": {"x": [1, 1]}}


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = torch.randn(100, 50, generator=torch.Generator().manual_seed(2))
    intervals = [of_mean(row) for row in draws]
    assert 88 <= sum(low <= 0 <= high for low, high in intervals) <= 99


def test_kid_of_like_sets_is_none() -> None:
    a, b, c = gaussian(60, 8, 1), gaussian(60, 8, 2), gaussian(60, 8, 3, 1.0)
    near, far = kid(a, b), kid(a, c)
    assert near["low"] < 0 < near["high"]
    assert far["low"] > near["high"]


def test_auc_is_scikit_learns_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = torch.randint(0, 6, (40,), generator=generator).float()
    outside = torch.randint(0, 5, (30,), generator=generator).float()
    labels = [1] * 40 + [0] * 30
    found = auc(inside, outside)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, torch.cat([inside, outside]).numpy()))
    assert found["low"] < found["auc"] < found["high"]
    assert auc(torch.ones(9), torch.zeros(9))["auc"] == 1


def test_a_copy_is_found_and_a_new_picture_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (300, 3, 32, 32), generator=generator, dtype=torch.uint8)
    training, held_out, new = thumbnails(pictures).split(100)
    unseen = nearest(held_out, training)
    among = nearest(training, training, own=torch.arange(100))
    honest = nearness(nearest(new, training), unseen, among)
    assert honest["near_copies"]["share"] <= 0.05
    assert 0.4 < honest["nearer"]["auc"] < 0.6
    copied = nearest(training[:50] + 0.001, training)
    assert copied.row.tolist() == list(range(50))
    thief = nearness(copied, unseen, among)
    assert thief["near_copies"]["share"] == 1
    assert thief["nearer"]["auc"] == 1
    assert thief["among_training"]["share"] <= 0.05


def test_distances_between_thumbnails_are_in_grey_levels() -> None:
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    found = nearest(thumbnails(black), thumbnails(black + 30))
    assert float(found.distance) == pytest.approx(30)


REFERENCE = {
    "frechet": 2.917838354681,  # torch-fidelity 0.4.0 and pytorch-fid 0.3.0
    "kid": 0.613951863524,  # torch-fidelity 0.4.0
    "precision": 281 / 300,
    "recall": 163 / 300,
    "psnr": 2.140438607594,  # scikit-image
}
"""What the libraries say of the features of benchmarks/formulas.py: they want torchvision, tests do not."""


def test_figures_are_those_of_the_reference_libraries() -> None:
    formulas = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/formulas.py"))
    assert formulas["ours"]() == pytest.approx(REFERENCE, rel=1e-9)
    a, b = (x.numpy() for x in formulas["features"]())
    assert peak_signal_noise_ratio(a, b, data_range=2) == pytest.approx(REFERENCE["psnr"], rel=1e-9)
