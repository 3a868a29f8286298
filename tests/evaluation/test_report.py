"""A run's page: whole, alone, and honest about what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from calotype.cli.main import run
from calotype.errors import InputError
from calotype.evaluation.curves import curve
from calotype.evaluation.report import report


@pytest.fixture
def finished(tmp_path: Path, tiny_file: Path) -> Path:
    folder = tmp_path / "a <run>"
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"data": "ab", "config": {"steps": 1000, "batch": 4}}))
    lines = [{"step": s, "seconds": 1, "loss": 0.5, "learning_rate": 1e-3} for s in range(10, 1001, 10)]
    held = [{"step": 100 * i, "seconds": 1, "loss": 1 - 0.05 * i} for i in range(1, 11)]
    text = "\n".join(json.dumps(line) for line in lines + held)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 10')  # the last line is still being written
    for step in range(100, 1001, 100):
        Image.new("RGB", (8, 8), (step % 256, 0, 0)).save(folder / f"samples/step-{step:08d}.png")
    (folder / "model.safetensors").write_bytes(tiny_file.read_bytes())
    return folder


def test_the_page_stands_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == str(finished / "report.html")
    page = (finished / "report.html").read_text()
    assert "a &lt;run&gt;" in page
    assert "Held-out loss has not converged" in page
    assert page.count("<polyline") == 2
    assert re.findall(r"Samples at step (\d+)</figcaption>", page) == [
        "100",
        "300",
        "500",
        "600",
        "800",
        "1000",
    ]
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert "http" not in page
    assert "<script" not in page
    notes = (finished / "report-verdicts.md").read_text()
    assert "✗ Held-out loss has not converged: the last fifth of the run still brought 22 %" in notes


def test_figures_and_an_audit_join_the_page(finished: Path, tiny_file: Path, tmp_path: Path) -> None:
    from calotype.checkpoints import native

    protocol = {"weights_sha256": native.describe(tiny_file).weights_hash}
    psnr = {"psnr": 20.0, "latent_std": 1.0, "intervals": {"psnr": [19.0, 21.0]}}
    (tmp_path / "figures.json").write_text(json.dumps({"protocol": protocol, "reconstruction": psnr}))
    copies = {"share": 0.3, "low": 0.2, "high": 0.4, "count": 40, "expected": 0.01}
    audit = {"protocol": protocol, "memorisation": {"pixels": {"near_copies": copies}}}
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    Image.new("RGB", (8, 8)).save(tmp_path / "audit.png")
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 200, 90)).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": "x", "split": "validation"}) for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    where = {"figures": tmp_path / "figures.json", "audit": tmp_path / "audit.json", "pictures": tmp_path}
    page = report(finished, out=tmp_path / "page.html", **where).read_text()
    assert "<td>reconstruction.psnr</td><td>20</td><td>19 to 21</td>" in page
    assert "<td>memorisation.pixels.near_copies.share</td><td>0.3</td><td>0.2 to 0.4</td>" in page
    assert "repeats its training" in page
    assert "below 25" in page
    assert page.count("<img") == 8
    (tmp_path / "audit.json").write_text(json.dumps({"protocol": {"weights_sha256": "ff" * 32}}))
    with pytest.raises(InputError, match="is of the weights ffffffff and"):
        report(finished, audit=tmp_path / "audit.json")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        report(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is no run's"):
        report(tmp_path)


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    drawn = curve("loss", [(0, 1.0), (1, float("nan")), (2, 0.0)])
    assert 'points="56.0,26.0 408.0,192.0"' in drawn
    assert curve("loss", []) == ""
