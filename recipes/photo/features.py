"""Features of all training photographs, from which a test sees that none is like a test picture.

python recipes/photo/features.py CACHE_OF_PACKAGES recipes/photo/features.safetensors
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from calotype.data.photos import opened, packaged, shrunk
from calotype.evaluation.features import SIDE, Features

photos = list(packaged(Path(sys.argv[1]), lambda *_: None))
small = [np.asarray(shrunk(opened(photo)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for photo in photos]
pictures = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)  # (N H W 3) -> (N 3 H W)
found = torch.nn.functional.normalize(Features()(pictures), dim=1)
save_file({"photographs": found.half()}, sys.argv[2])
print(len(photos), "photographs")
