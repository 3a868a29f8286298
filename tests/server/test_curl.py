"""Every curl line of docs/serve.md, as one shell script against a live server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.server.conftest import run
from tests.server.stock import stock
from tests.server.test_tasks_over_http import half, picture

from calotype.models.latent_diffusion import LatentDiffusion
from calotype.server.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/serve.md"


def script() -> str:
    """The indented blocks in which curl is called, in their order."""
    blocks = re.findall(r"(?:^    .*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return "\n".join(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if "curl " in block)


def test_every_line(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the page's curl lines were NOT run, for there is no curl; run: apt-get install curl")
    models, folder = stock(tmp_path, tiny_model)
    place = tmp_path / "files"
    place.mkdir()
    picture().save(place / "noisy.jpg")
    picture().save(place / "edges.png")
    half().save(place / "mask.png")
    for live in run(Settings(tmp_path / "data", models, "tiny", threads=1, folder=folder)):
        lines = script().replace("localhost:7860", live.address.removeprefix("http://"))
        loud = 'curl() { echo "+ $*" >&2; command curl --fail-with-body -sS "$@" && echo; }\n'
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", loud + lines],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "NO_PROXY": "*"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.count("+ ") == len(re.findall(r"^curl |[|(] *curl ", script(), re.MULTILINE)) >= 9
        assert (place / "apple.png").read_bytes().startswith(b"\x89PNG")
        assert '"prompts":["a red apple"]' in done.stdout
        with live.client() as http:  # all that was asked for is drawn
            for job in http.get("/v1/jobs").json()["jobs"]:
                for line in http.get(f"/v1/jobs/{job['id']}/events").text.splitlines():
                    assert '"state": "failed"' not in line, line
