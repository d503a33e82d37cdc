"""Real photographs of eight garments: a part of Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017; Zalando SE, MIT licence).

The full set (56,000 photographs of the eight) is read from its IDX files: from a folder given, from the folder that the
environment variable ``FASHION_MNIST`` names, or from where Debian's package ``dataset-fashion-mnist`` puts them. A few
hundred ship with this package, for whatever needs real images and has no data set at hand: relearning, forgetting,
tests.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OBJECTS = ("t-shirt", "trouser", "pullover", "dress", "sandal", "sneaker", "bag", "boot")

FOLDER_VARIABLE = "FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SHIPPED = Path(__file__).with_name("photographs.npz")

# Fashion-MNIST's own numbers of the eight. Coat (4) and shirt (6) are left out: at this size nobody tells them from
# pullover and T-shirt.
_ORIGINAL_LABELS = (0, 1, 2, 3, 5, 7, 8, 9)
_FILES = {"train": "train", "held-out": "t10k"}
_PIXELS = 28


@dataclass(frozen=True)
class Photographs:
    """Grey ``images`` (n, 28, 28), uint8, and ``objects`` (n,), indices into :data:`OBJECTS`."""

    images: NDArray[np.uint8]
    objects: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Photographs:
        return Photographs(self.images[rows], self.objects[rows])


def load_photographs(split: str, folder: str | Path | None = None) -> Photographs:
    """All photographs of the eight objects: ``"train"`` (48,000) or ``"held-out"`` (8,000), Fashion-MNIST's own split.

    Raises ``ValueError`` for another split or for files that are no such data, and ``FileNotFoundError``, with where
    to get them, where there are none.
    """
    if split not in _FILES:
        raise ValueError(f"split must be 'train' or 'held-out', got {split!r}")
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER)
    images = _read_idx(place / f"{_FILES[split]}-images-idx3-ubyte.gz", (_PIXELS, _PIXELS))
    labels = _read_idx(place / f"{_FILES[split]}-labels-idx1-ubyte.gz", ())
    if len(images) != len(labels):
        raise ValueError(f"{place}: {len(images)} images do not go with {len(labels)} labels")
    number = np.full(256, -1)
    number[list(_ORIGINAL_LABELS)] = np.arange(len(OBJECTS))
    objects = number[labels]
    return Photographs(images[objects >= 0], objects[objects >= 0])


def shipped_photographs(split: str) -> Photographs:
    """The photographs that ship with the package: ``"train"`` or ``"held-out"``, equally many of each object.

    The first ones of each object in :func:`load_photographs`'s order. Raises ``ValueError`` for another split.
    """
    if split not in _FILES:
        raise ValueError(f"split must be 'train' or 'held-out', got {split!r}")
    with np.load(SHIPPED, allow_pickle=False) as file:
        return Photographs(file[f"{split} images"], file[f"{split} objects"].astype(np.int64))


def _read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """`(n, *shape)` bytes of one IDX file: two zero bytes, 8 (unsigned byte), the number of axes, big-endian sizes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no Fashion-MNIST at {path}: install Debian's package dataset-fashion-mnist, or name a folder with its "
            f"four IDX files as folder= or in the environment variable {FOLDER_VARIABLE}"
        ) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no gzip file: {error}") from error
    head = 4 * (2 + len(shape))
    sizes = tuple(int(size) for size in np.frombuffer(content[4:head], ">u4"))
    if content[:4] != bytes((0, 0, 8, 1 + len(shape))) or sizes[1:] != shape:
        raise ValueError(f"{path} is no IDX file of bytes of shape (n, {', '.join(map(str, shape))})")
    if len(content) != head + int(np.prod(sizes)):
        raise ValueError(f"{path} should hold {int(np.prod(sizes))} bytes of data, got {len(content) - head}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)
