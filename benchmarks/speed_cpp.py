"""stable-diffusion.cpp's side of speed.py, for an interpreter that has `stable-diffusion-cpp-python`.

    python benchmarks/speed_cpp.py FILE SIZE THREADS PROMPT GUIDANCE

Reads a word a line and answers with the seconds that it took: `load` opens the file, `1` and `3` draw a
picture in so many guided Euler steps.
"""

import os
import sys
import time
from typing import Any

from stable_diffusion_cpp import StableDiffusion


def main(path: str, size: int, threads: int, prompt: str, guidance: float) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    model: Any = None
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        word, start = line.strip(), time.perf_counter()
        if word == "load":
            model = StableDiffusion(model_path=path, n_threads=threads, verbose=False)
        else:
            model.generate_image(
                prompt=prompt,
                width=size,
                height=size,
                cfg_scale=guidance,
                sample_method="euler",
                sample_steps=int(word),
                seed=1,
            )
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
