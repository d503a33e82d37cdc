"""Which files of a folder a run has written: a list with sizes and digests, by which it is known again as ours.

::

    manifest.json = {"made_by": .., "schema_version": 1, "complete": true, "files": {name: {"bytes": n, "sha256": ..}}}

A folder without one, or with anything in it that the list does not have, belongs to somebody else.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from diffusion.runtime.files import to_disk, to_json, write_text

MANIFEST = "manifest.json"
#: What systems put into every folder that somebody looks at.
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
MADE_BY = "unlearning-duality"


def write_manifest(folder: Path, complete: bool = True) -> None:
    """List what is in ``folder``, all of it on the disk. ``complete=False``: a run is still at it."""
    files = {}
    for path in sorted(_entries(folder)):
        if path.is_file() and not path.is_symlink():
            to_disk(path)
            files[path.relative_to(folder).as_posix()] = _described(path)
    data = {"made_by": MADE_BY, "schema_version": 1, "complete": complete, "files": files}
    write_text(folder / MANIFEST, to_json(data))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None where it carries none of ours."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(data, dict) and data.get("made_by") == MADE_BY and isinstance(data.get("files"), dict)
    return data if ours else None


def not_ours(folder: Path) -> str | None:
    """Why a folder may not be replaced, or None where every file in it is as a run has left it."""
    manifest = read_manifest(folder)
    if manifest is None:
        return f"it carries no {MANIFEST} of this project"
    listed = manifest["files"]
    folders = {parent.as_posix() for name in listed for parent in Path(name).parents}
    for path in sorted(_entries(folder)):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name not in folders:
                return f"it holds {name!r}, which no run has put there"
        elif name not in listed or path.is_symlink() or not path.is_file():
            return f"it holds {name!r}, which no run has put there"
        elif _described(path) != listed[name]:
            return f"{name!r} in it was changed since it was written"
    return None


def _entries(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        found += [Path(place) / name for name in [*folders, *files]]
    return [path for path in found if path != folder / MANIFEST and path.name not in LITTER]


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _digest(file: Any) -> Any:  # Python 3.10 has no file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
