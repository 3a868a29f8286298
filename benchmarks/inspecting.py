"""How long `calotype inspect` takes on a large file, without reading its tensors.

    python benchmarks/inspecting.py [--rounds 5]

Writes sparse files with the names and shapes of Stable Diffusion 1.x in float32 (4.3 GB) and XL in float16
(6.9 GB): they take no room on the disk. Prints the best round's wall and CPU time of the examination alone,
and of the whole command from the shell, which leaves torch out, beside that of importing torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import torch

from calotype.checkpoints import doctor, single_file
from calotype.conditioning.tokenizer import Tokenizer
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import build, unfilled
from calotype.models.presets import sd1, sdxl

DTYPES = {torch.float32: "F32", torch.float16: "F16"}


def write_sparse(path: Path, config: ModelConfig, dtype: torch.dtype) -> Path:
    """A single file of that model in which every weight is 0, and none is written."""
    with unfilled():
        model = build(config, Tokenizer.clip())
        shapes = {name: list(value.shape) for name, value in single_file.named(model).items()}
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        file.truncate(8 + len(told) + end)
    return path


def best(rounds: int, work: object) -> tuple[float, float]:
    """Seconds of the clock and of the CPU."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()  # type: ignore[operator]
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(taken)


def shell(rounds: int, *command: str) -> str:
    """Seconds of the clock and of the processor, of the best round."""
    taken = []
    for _ in range(rounds):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((time.perf_counter() - start, cpu))
    wall, cpu = min(taken)
    return f"{wall:.2f} s (CPU {cpu:.2f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for config, dtype in ((sd1(), torch.float32), (sdxl(), torch.float16)):
            path = write_sparse(Path(folder) / f"{config.name}.safetensors", config, dtype)
            report = doctor.examine(path)
            assert report.problem is None, report.problem
            wall, cpu = best(rounds, lambda path=path: doctor.examine(path))
            whole = shell(rounds, "-m", "calotype", "inspect", str(path))
            print(
                f"{config.name} {path.stat().st_size / 1e9:.2f} GB, {report.tensors} tensors: "
                f"examine {wall:.3f} s (CPU {cpu:.3f} s), whole command {whole}"
            )
            path.unlink()
    print(f"import torch alone {shell(rounds, '-c', 'import torch')}")


if __name__ == "__main__":
    main()
