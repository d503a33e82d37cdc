"""Output folders that are whole or absent, and pictures of draws."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unwritable(path: Path, error: Exception) -> OSError:
    """An ``OSError`` that names the path, whatever the writer made of a full disk."""
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(getattr(error, "errno", None) or errno.EIO, f"{path} could not be written ({reason})")


def writing_errors() -> tuple[type[Exception], ...]:
    """What writers raise when a disk is full: the system's own errors, and safetensors', which wrap them."""
    from safetensors import SafetensorError

    return OSError, SafetensorError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """``with whole(path) as partial:`` write to ``partial``, which takes the place of ``path`` when it is complete.

    Whatever happens inside, a kill included, ``path`` is what it was or what it was to be. Raises ``OSError`` naming
    ``path`` where it cannot be written, a full disk for one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:  # on the disk before it is put in place, a power cut included
            os.fsync(file.fileno())
        os.replace(partial, path)
    except writing_errors() as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


class OutputFolder:
    """``with OutputFolder(path, overwrite) as folder:`` write into ``folder``; it becomes ``path`` when all went well.

    Raises ``ValueError`` before any work when ``path`` is a file, or a folder that is not empty without ``overwrite``.
    An error or an interrupt inside the block leaves ``path`` as it was; one of writing becomes an ``OSError`` that
    names it.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output {str(path)!r} is a file; a folder is needed")
        if self.path.is_dir() and any(self.path.iterdir()) and not overwrite:
            raise ValueError(f"output folder {str(path)!r} is not empty: choose another or give --overwrite")

    def __enter__(self) -> Path:
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    def __exit__(self, kind: Any, error: Any, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            if isinstance(error, writing_errors()):
                raise unwritable(self.path, error) from error
            return
        if self.path.exists():
            old = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
            os.replace(self.path, old)
            os.replace(self._partial, self.path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self._partial, self.path)


def sheet(pictures: NDArray[np.float32], columns: int, pad: int = 2) -> NDArray[np.uint8]:
    """Pictures (n, 3, h, w) in [-1, 1] on one sheet (H, W, 3), row by row, on white."""
    n, _, h, w = pictures.shape
    lines = -(-n // columns)
    page = np.full((lines * (h + pad) + pad, columns * (w + pad) + pad, 3), 255, np.uint8)
    for j, picture in enumerate(pictures):
        top, left = pad + (j // columns) * (h + pad), pad + (j % columns) * (w + pad)
        shown = np.clip((picture + 1) * 127.5, 0, 255).round().astype(np.uint8)
        page[top : top + h, left : left + w] = shown.transpose(1, 2, 0)
    return page


def save_pictures(
    path: Path, panels: Sequence[tuple[str, NDArray[np.float32]]], columns: int, panel_columns: int = 2
) -> None:
    """A PNG with one titled sheet per panel."""
    from matplotlib.figure import Figure

    lines = -(-len(panels) // panel_columns)
    first = sheet(panels[0][1], columns)
    width = 3.6 * panel_columns
    height = lines * (3.6 * first.shape[0] / first.shape[1] + 0.35)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=160)
    for index, (title, pictures) in enumerate(panels):
        axes = figure.add_subplot(lines, panel_columns, index + 1)
        axes.imshow(sheet(pictures, columns), interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(path)
