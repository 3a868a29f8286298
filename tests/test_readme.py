"""The READMEs' commands and Python run as they stand, in an empty folder with a few pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.conftest import write_shapes

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.verify
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_examples_run(page: str, tmp_path: Path) -> None:
    (tmp_path / "my-pictures").mkdir()
    write_shapes(tmp_path / "my-pictures")
    environment = {
        **os.environ,
        "CALOTYPE_CACHE": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    shell = "set -e\n" + "".join(blocks(page, "sh"))
    assert shell.count("calotype ") >= 8
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for code in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.glob("*.png")}
    named = set(re.findall(r"[\w-]+\.png", shell + "".join(blocks(page, "python"))))
    assert named <= made


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_and_pictures_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
