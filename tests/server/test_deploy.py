"""The container file and the systemd unit, as far as one can without either: what they name is there."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

from typer.main import get_command

from calotype.cli.main import app

ROOT = Path(__file__).parents[2]


def options(command: list[str]) -> set[str]:
    """Of a command line of `calotype serve`, all of which it takes."""
    assert [Path(command[0]).name, command[1]] == ["calotype", "serve"]
    known = {name for parameter in get_command(app).commands["serve"].params for name in parameter.opts}  # type: ignore[attr-defined]
    given = {word for word in command if word.startswith("--")}
    assert given <= known
    return given


def test_the_container_file() -> None:
    told = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", told).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[:2] == [["ARG", "BASE=python:3.11-slim"], ["FROM", "${BASE}"]]
    for source in (word for kind, rest in steps if kind == "COPY" for word in rest.split()[:-1]):
        assert (ROOT / source).exists(), source
    (install,) = (rest for kind, rest in steps if kind == "RUN")
    assert "-c /source/constraints.txt" in install
    (extras,) = re.findall(r"ARG EXTRAS=(\S+)", told)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= known["optional-dependencies"].keys()
    kinds = [kind for kind, _ in steps]
    assert kinds.index("RUN") < kinds.index("USER") < kinds.index("ENTRYPOINT")
    entry = json.loads(next(rest for kind, rest in steps if kind == "ENTRYPOINT"))
    assert options(entry) == {"--host", "--data"}


def test_the_systemd_unit(tmp_path: Path) -> None:
    path = ROOT / "deploy" / "calotype.service"
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(path, encoding="utf-8")
    service = unit["Service"]
    assert options(shlex.split(service["ExecStart"])) == {"--host", "--token-file", "--data"}
    assert service["KillMode"] == "mixed"  # else replicas would go before their batch is done
    if shutil.which("systemd-analyze"):
        command = tmp_path / "calotype"
        command.touch(mode=0o755)
        copy = tmp_path / path.name
        told = path.read_text(encoding="utf-8").replace("/opt/calotype/bin/calotype", str(command))
        copy.write_text(told, encoding="utf-8")
        done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
