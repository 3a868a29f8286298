"""A sheet of all training photographs, from which a test sees that none is a test picture.

python recipes/photo/thumbnails.py CACHE_OF_PACKAGES recipes/photo/photographs.jpg
"""

import sys
from pathlib import Path

from PIL import Image

from calotype.data.photos import opened, packaged

SIDE, COLUMNS = 224, 8

photos = list(packaged(Path(sys.argv[1]), lambda *_: None))
sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(photos) // COLUMNS) * SIDE), "white")
for i, photo in enumerate(photos):
    small = opened(photo).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet.paste(small, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
sheet.save(sys.argv[2], quality=88)
print(len(photos), "photographs")
