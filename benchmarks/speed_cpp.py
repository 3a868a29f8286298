"""stable-diffusion.cpp's side of speed.py, for an interpreter that has `stable-diffusion-cpp-python`.

    python benchmarks/speed_cpp.py FILE SIZE THREADS

Reads a word a line and answers with the seconds that it took: `load` opens the file (weights are read when
they are first used), `1` and `3` draw a picture in so many guided Euler steps; `peak` answers with bytes.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from stable_diffusion_cpp import StableDiffusion

PROMPT = "a photograph of an astronaut riding a horse"


def main(path: str, size: int, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    model: Any = None
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        word, start = line.strip(), time.perf_counter()
        if word == "peak":
            high = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
            assert high is not None
            print(int(high[1]) * 1024, file=answers, flush=True)
            continue
        if word == "load":
            model = StableDiffusion(model_path=path, n_threads=threads, verbose=False)
        else:
            model.generate_image(
                prompt=PROMPT,
                width=size,
                height=size,
                cfg_scale=7.5,
                sample_method="euler",
                sample_steps=int(word),
                seed=1,
            )
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
