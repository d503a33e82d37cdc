"""A run's folder: what is somebody else's is never touched, and neither an old result nor a new one is ever lost."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion.runtime import output_folder
from diffusion.runtime.manifest import MANIFEST, not_ours, read_manifest
from diffusion.runtime.output_folder import OutputFolder, keep

# A process of its own, without torch: one process, which is the main one.
ALONE = """
import os, signal, sys, types
from pathlib import Path
sys.modules["diffusion.runtime.distributed"] = types.SimpleNamespace(
    is_main=lambda: True, broadcast_object=lambda value: value
)
from diffusion.runtime.output_folder import OutputFolder, keep
place = Path(sys.argv[1])
"""


def alone(code, place):
    return subprocess.run([sys.executable, "-c", ALONE + code, place], capture_output=True, text=True, timeout=60)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(place, text="new", overwrite=False):
    with OutputFolder(place, overwrite) as folder:
        (folder / "result").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "part").write_text(text)


def test_a_folder_says_what_was_written(tmp_path):
    make(tmp_path / "a" / "out")
    assert names(tmp_path / "a") == ["out"]
    manifest = read_manifest(tmp_path / "a" / "out")
    assert manifest["complete"] is True
    assert {name: each["bytes"] for name, each in manifest["files"].items()} == {"result": 3, "sub/part": 3}
    make(tmp_path / "a" / "out", "newer", overwrite=True)
    assert (tmp_path / "a" / "out" / "result").read_text() == "newer"
    assert names(tmp_path / "a") == ["out"]


def test_a_file_put_there_during_the_run_is_kept(tmp_path):
    place = tmp_path / "out"
    with (
        pytest.raises(ValueError, match=r"it is not empty any more. This run's is in .*refused"),
        OutputFolder(place) as new,
    ):
        (new / "result").write_text("new")
        place.mkdir()
        (place / "thesis").write_text("mine")
    assert (place / "thesis").read_text() == "mine"
    assert (tmp_path / "out.refused" / "result").read_text() == "new"
    assert names(tmp_path) == ["out", "out.refused"]


def test_a_file_put_there_during_the_run_is_kept_with_overwrite(tmp_path):
    place = tmp_path / "out"
    make(place, "old")
    with pytest.raises(ValueError, match=r"it holds 'thesis', .* This run's is in"), OutputFolder(place, True) as new:
        (new / "result").write_text("new")
        (place / "thesis").write_text("mine")
    assert (place / "thesis").read_text() == "mine"
    assert (place / "result").read_text() == "old"
    assert (tmp_path / "out.refused" / "result").read_text() == "new"


def test_a_file_or_link_that_takes_the_place_during_the_run_is_kept(tmp_path):
    place = tmp_path / "out"
    for make_it in (lambda: place.write_text("mine"), lambda: place.symlink_to(tmp_path / "elsewhere")):
        with pytest.raises(ValueError, match="it is no folder any more"), OutputFolder(place) as folder:
            (folder / "result").write_text("new")
            make_it()
        assert os.path.lexists(place)
        place.unlink()
    assert names(tmp_path) == ["out.refused", "out.refused-2"]


def test_a_second_run_into_one_folder_is_refused_before_any_work(tmp_path):
    place = tmp_path / "out"
    with OutputFolder(place) as folder:
        (folder / "result").write_text("first")
        run = alone("with OutputFolder(place) as folder: print('work was begun')", place)
        assert "another run is writing to it" in run.stderr
        assert run.stdout == ""
    assert (place / "result").read_text() == "first"


def test_two_runs_that_do_not_see_each_other_lose_nothing(tmp_path, monkeypatch):
    """As on a disk that cannot lock, or where both begin in the same moment: the later one is kept beside."""
    monkeypatch.setattr(output_folder, "partials_of", lambda _path: [])
    place = tmp_path / "out"
    with pytest.raises(ValueError, match=r"This run's is in .*out\.refused"), OutputFolder(place) as later:
        (later / "result").write_text("later")
        make(place, "first")
    assert (place / "result").read_text() == "first"
    assert (tmp_path / "out.refused" / "result").read_text() == "later"


@pytest.mark.parametrize(
    "what", ["no manifest", "another file", "a changed file", "a folder", "a link", "a stranger's"]
)
def test_overwrite_leaves_alone_what_is_not_ours(tmp_path, what):
    place = tmp_path / "out"
    make(place, "old")
    if what == "no manifest":
        (place / MANIFEST).unlink()
    elif what == "another file":
        (place / "thesis.tex").write_text("mine")
    elif what == "a changed file":
        (place / "result").write_text("odl")  # of the same length
    elif what == "a folder":
        (place / ".git").mkdir()
    elif what == "a link":
        (place / "result").unlink()
        (place / "result").symlink_to(tmp_path)
    else:
        (place / MANIFEST).write_text('{"files": {}}')
    before = names(place)
    with pytest.raises(ValueError, match="is not replaced"):
        OutputFolder(place, overwrite=True)
    assert names(place) == before
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    make(real, "old")
    link.symlink_to(real)
    make(link, "new", overwrite=True)
    assert link.is_symlink()
    assert (real / "result").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("what", ["", ".", "..", "dangling", "file", "under a file", "mount", "too long"])
def test_an_output_that_cannot_be_used_is_found_before_the_work(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    place = Path(what)
    if what == "dangling":
        place.symlink_to("nowhere")
    elif what in ("file", "under a file"):
        Path("file").write_text("mine")
        place = Path("file") if what == "file" else Path("file/out")
    elif what == "mount":
        place = Path("/proc")
    elif what == "too long":
        place = Path("x" * 250)  # a name that fits, while the partial folder's would not
    before = names(tmp_path)
    with pytest.raises((ValueError, OSError), match=r"output|could not be written"), OutputFolder(place, True):
        raise AssertionError("work was begun")
    assert names(tmp_path) == before


def test_a_parent_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    """Said by the system, not by us; as root nothing is forbidden, so the refusal itself is put in."""

    def refused(self, *_arguments, **_more):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with (
        pytest.raises(OSError, match=r"out could not be written \(Permission denied\)"),
        OutputFolder(tmp_path / "out"),
    ):
        raise AssertionError("work was begun")


def test_what_was_to_be_kept_survives_an_error(tmp_path, capsys):
    place = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError), OutputFolder(place) as folder:
        (folder / "fit").write_text("weights")
        keep(folder)
        (folder / "half").write_text("")
        raise ZeroDivisionError
    kept = tmp_path / "deep" / "out.unfinished"
    assert str(kept) in capsys.readouterr().err
    assert (kept / "fit").read_text() == "weights"
    assert read_manifest(kept)["complete"] is False
    assert not place.exists()
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "other" / "out") as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["deep"]  # the parents made for nothing are gone, too


def test_errors_of_others_are_not_taken_for_errors_of_writing(tmp_path):
    missing = tmp_path / "model"
    with pytest.raises(FileNotFoundError, match="model"), OutputFolder(tmp_path / "out"):
        missing.read_text()
    with pytest.raises(OSError, match=r"^no such model$"), OutputFolder(tmp_path / "out"):
        raise OSError("no such model")
    with pytest.raises(OSError, match="out could not be written"), OutputFolder(tmp_path / "out") as folder:
        (folder / "absent" / "file").write_text("x")


KILLED = """
real, calls = os.rename, []
def rename(*names):
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(names)
    real(*names)
os.rename = rename
with OutputFolder(place, overwrite=True) as folder:
    (folder / "result").write_text("new")
"""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_at_any_rename_neither_old_nor_new_is_lost(tmp_path, at):
    """The renames of a replacement: onto the old folder (the system refuses), the old one aside, the new one in."""
    place = tmp_path / "out"
    make(place, "old")
    run = alone(KILLED.format(at=at), place)
    assert run.returncode == -signal.SIGKILL
    texts = sorted(path.read_text() for path in tmp_path.glob("**/result"))
    assert texts == ["new", "old"]
    aside = tmp_path / "out.replaced"
    assert aside.exists() == (at == 2)
    if at == 2:
        assert not place.exists()
        assert str(aside) in run.stderr  # printed before anything was moved
    follow_up = alone("OutputFolder(place, overwrite=True).__enter__()", place)
    assert follow_up.returncode == 0, follow_up.stderr
    assert (place / "result").read_text() == ("new" if at == 2 else "old")
    assert sorted(path.read_text() for path in tmp_path.glob("**/result")) == ["new", "old"]
    assert f"{place}" in follow_up.stderr


def test_killed_during_the_work_a_kept_fit_is_found_by_the_next_run(tmp_path):
    place = tmp_path / "out"
    code = """
folder = OutputFolder(place).__enter__()
(folder / "fit").write_text("weights")
if {kept}: keep(folder)
os.kill(os.getpid(), signal.SIGKILL)
"""
    for kept in (False, True):
        assert alone(code.format(kept=kept), place).returncode == -signal.SIGKILL
        run = alone("with OutputFolder(place) as folder: (folder / 'result').write_text('new')", place)
        assert run.returncode == 0, run.stderr
        assert names(tmp_path) == (["out", "out.unfinished"] if kept else ["out"])
        assert ("out.unfinished" in run.stderr) is kept
        (place / "result").unlink()
        (place / MANIFEST).unlink()
    assert (tmp_path / "out.unfinished" / "fit").read_text() == "weights"
    assert not_ours(tmp_path / "out.unfinished") is None
