"""Choose the photographs that ship with the package: ``python -m diffusion.wardrobe.experiments.ship_photographs``.

The first ones of each object in Fashion-MNIST's own order: 40 of training, 20 held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.wardrobe.photographs import OBJECTS, SHIPPED, load_photographs

COUNTS = {"train": 40, "held-out": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    arguments = parser.parse_args()
    arrays: dict[str, Any] = {}
    for split, count in COUNTS.items():
        every = load_photographs(split, arguments.data)
        rows = np.sort(np.concatenate([np.flatnonzero(every.objects == j)[:count] for j in range(len(OBJECTS))]))
        arrays |= {f"{split} images": every.images[rows], f"{split} objects": every.objects[rows].astype(np.uint8)}
    with SHIPPED.open("wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main()
