"""The folder of a run's results: made before the work, put in place at its end, and never at the cost of another's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from diffusion.runtime.distributed import broadcast_object, is_main
from diffusion.runtime.files import (
    UnwritableError,
    missing_parents,
    partial_name,
    partials_of,
    remove_empty,
    say,
    unwritable,
    writing_errors,
)
from diffusion.runtime.locks import claim, taken_over
from diffusion.runtime.manifest import not_ours, read_manifest, write_manifest

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class OutputFolder:
    """``with OutputFolder(path, overwrite) as folder:`` write into ``folder``; it becomes ``path`` when all went well.

    The work belongs inside the block: what cannot be written is found out when it is entered. There, and again at the
    end, ``path`` must be absent or empty, or, with ``overwrite``, a folder that carries our manifest and nothing else
    (:mod:`diffusion.runtime.manifest`). What is refused at the end stays beside it under a name that the error says.
    An error or an interrupt inside the block leaves ``path`` as it was; what :func:`keep` was told to keep stays under
    a name that is printed. Killed between two renames, neither the old folder nor the new is lost: the next run into
    ``path`` puts the new one in place. Of several processes the main one does all this (collective).

    Raises ``ValueError`` for a path that cannot be an output folder, or one that another run is writing to;
    ``OSError`` naming it where nothing can be written.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.given, self.path, self.overwrite = Path(path), Path(os.path.realpath(path)), overwrite
        if not self.given.name or self.path == Path.cwd() or self.path in Path.cwd().parents:
            raise ValueError(f"output must name a folder of its own, got {str(path)!r}")
        if self.given.is_symlink() and not self.given.exists():
            raise ValueError(f"output {str(path)!r} is a link to {str(self.path)!r}, which does not exist")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output {str(path)!r} is a file; a folder is needed")
        if _is_mount(self.path):
            raise ValueError(f"output {str(path)!r} is a mount point and cannot be replaced: name a folder inside it")
        self._check()

    def _check(self) -> None:
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not self.overwrite:
            raise ValueError(f"output folder {str(self.given)!r} is not empty: choose another or give --overwrite")
        reason = not_ours(self.path)
        if reason is not None:
            raise ValueError(f"output folder {str(self.given)!r} is not replaced: {reason}. Choose another")

    def __enter__(self) -> Path:
        problem: Exception | None = None
        self._partial = Path()
        if is_main():
            try:
                self._recover()
                self._check()
                self._open()
            except (OSError, ValueError) as error:
                problem = error
        problem, self._partial = broadcast_object((problem, self._partial))
        if problem is not None:
            raise problem
        return self._partial

    def _open(self) -> None:
        self._partial, self._made = partial_name(self.path), missing_parents(self.path)
        try:
            self._lock = claim(self._partial, lambda path: path.mkdir(parents=True, exist_ok=True))
        except OSError as error:
            remove_empty([self._partial, *self._made])
            raise unwritable(self.given, error) from error

    def _recover(self) -> None:
        """Whatever a run that was killed has left beside ``path`` is put in place, kept, or cleared."""
        for left in (some for some in partials_of(self.path) if some.is_dir()):
            with taken_over(left) as ours:
                if not ours:
                    raise ValueError(
                        f"output folder {str(self.given)!r}: another run is writing to it, in {left} (if none is, "
                        "remove that)"
                    )
                manifest = read_manifest(left)
                if manifest is None:
                    shutil.rmtree(left, ignore_errors=True)
                elif manifest.get("complete") and not self.path.exists():
                    os.rename(left, self.path)
                    say(f"a run was killed while it put {self.path} in place; it is in place now")
                else:
                    kept = free_name(self.path, "unfinished")
                    os.rename(left, kept)
                    say(f"a run into {self.path} was killed; what it had finished is in {kept}")

    def __exit__(self, kind: Any, error: Any, *_: object) -> None:
        if not is_main():
            return
        try:
            if kind is None:
                write_manifest(self._partial)
                self._install()
                return
            self._put_aside()
            if self._is_mine(error):
                raise unwritable(self.given, error) from error
        except writing_errors() as failed:
            self._put_aside()
            if isinstance(failed, UnwritableError):
                raise
            raise unwritable(self.given, failed) from failed
        finally:
            os.close(self._lock)

    def _is_mine(self, error: Any) -> bool:
        """Whether it was in writing to this folder that the block failed: errors of writing seldom say where."""
        if not isinstance(error, writing_errors()) or isinstance(error, UnwritableError):
            return False
        name = getattr(error, "filename", None)
        if name is not None:
            return Path(os.path.realpath(name)).is_relative_to(self._partial)
        return getattr(error, "errno", None) in FULL or "os error" in str(error)  # safetensors' way of saying it

    def _put_aside(self) -> None:
        """What was to be kept under a name of its own; nothing else stays."""
        if not self._partial.exists():
            return
        if read_manifest(self._partial) is not None:
            kept = free_name(self.path, "unfinished")
            os.rename(self._partial, kept)
            say(f"the run into {self.path} did not end; what it had finished is in {kept}")
            return
        shutil.rmtree(self._partial, ignore_errors=True)
        remove_empty(self._made)

    def _install(self) -> None:
        try:
            # Onto nothing, or onto an empty folder: the system does it at once, and onto nothing else.
            os.rename(self._partial, self.path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if not self.path.is_dir() or self.path.is_symlink():
            reason: str | None = "it is no folder any more"
        else:
            reason = not_ours(self.path) if self.overwrite else "it is not empty any more"
        if reason is not None:
            kept = free_name(self.path, "refused")
            os.rename(self._partial, kept)
            raise ValueError(f"output folder {str(self.given)!r} is left as it is: {reason}. This run's is in {kept}")
        old = free_name(self.path, "replaced")
        say(f"{self.path} is being replaced; until that is done the old folder is {old}")
        os.rename(self.path, old)
        os.rename(self._partial, self.path)
        reason = not_ours(old)  # somebody may have put a file there since it was looked at
        if reason is None:
            shutil.rmtree(old, ignore_errors=True)
        else:
            say(f"the old folder is kept, {old}: {reason}")


def keep(folder: Path) -> None:
    """What is in the folder of a running :class:`OutputFolder` by now is kept, whatever happens to the rest of it."""
    write_manifest(folder, complete=False)


def free_name(path: Path, word: str) -> Path:
    """``path.word``, or ``path.word-2``, ...: the first that nothing has yet."""
    name, number = path.with_name(f"{path.name}.{word}"), 1
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}.{word}-{number}")
    return name


def _is_mount(path: Path) -> bool:
    if os.path.ismount(path):
        return True
    try:  # a folder bound to another of the same disk
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.split(" ")[4] == escaped for line in lines)
