"""`tests/portable.py` says which processor the tests ran as, and is not taken in by a library that does as it likes."""

import os
import subprocess
import sys

import pytest

from tests import portable
from tests.portable import AVX2, AVX512, PROCESSORS, ROOT, Seen, environment, main, objection

PRESCOTT, HASWELL, SKYLAKE, ZEN = PROCESSORS
WIDE = Seen(("SkylakeX",), ("X86_V3", "X86_V4", "AVX512_ICL"), "AVX512")
OLD = Seen(("Haswell",), ("AVX2", "FMA3", "AVX512F"), "AVX2")  # NumPy's names before 2.4
CAN = AVX512 | {"sse2"}


def test_each_library_is_told_what_it_may_use():
    for own, beyond in ((WIDE, "X86_V4 AVX512_ICL"), (OLD, "AVX512F")):
        assert environment(PRESCOTT, own)["NPY_DISABLE_CPU_FEATURES"] == " ".join(own.numpy)
        assert environment(HASWELL, own)["NPY_DISABLE_CPU_FEATURES"] == beyond
        assert "NPY_DISABLE_CPU_FEATURES" not in environment(SKYLAKE, own)
    assert environment(HASWELL, WIDE)["OPENBLAS_CORETYPE"] == "Haswell"
    assert [environment(p, WIDE)["ATEN_CPU_CAPABILITY"] for p in (PRESCOTT, ZEN)] == ["default", "avx2"]


@pytest.mark.parametrize(
    ("processor", "seen", "can", "words", "wrong"),
    [
        (PRESCOTT, Seen(("Katmai",), (), "DEFAULT"), CAN, "", False),
        (PRESCOTT, Seen(("Prescott",), (), None), CAN, "", False),
        (HASWELL, Seen(("Haswell",), ("X86_V3",), "AVX2"), CAN, "", False),
        (SKYLAKE, WIDE, CAN, "", False),
        (ZEN, Seen(("Zen",), ("AVX2",), "AVX2"), CAN, "", False),
        # What cannot be tried here is left out, with the reason.
        (SKYLAKE, Seen(("Haswell",), ("X86_V3",), "AVX2"), AVX2 | {"sse2"}, "lacks avx512bw", False),
        (HASWELL, Seen(("Nehalem",), (), "DEFAULT"), frozenset({"sse2"}), "lacks avx2, fma", False),
        (ZEN, Seen(("Haswell",), ("X86_V3",), "AVX2"), CAN, "takes Haswell's", False),
        (PRESCOTT, Seen((), (), "DEFAULT"), CAN, "neither NumPy nor SciPy", False),
        (PRESCOTT, Seen(("neoversen1",), (), "DEFAULT"), frozenset(), "neoversen1 runs", False),
        # What could have been done and was not is an error: the tests would pass as on another processor.
        (PRESCOTT, Seen(("SkylakeX",), (), "DEFAULT"), CAN, "SkylakeX runs in OpenBLAS", True),
        (PRESCOTT, Seen(("Katmai", "SkylakeX"), (), "DEFAULT"), CAN, "Katmai and SkylakeX runs", True),
        (HASWELL, Seen(("Haswell",), ("X86_V3", "X86_V4"), "AVX2"), CAN, "X86_V4 runs in NumPy", True),
        (PRESCOTT, Seen(("Katmai",), (), "AVX512"), CAN, "AVX512 runs in torch", True),
    ],
)
def test_only_what_runs_as_asked_counts(processor, seen, can, words, wrong):
    why, error = objection(processor, seen, can)
    assert words in why
    assert (bool(why), error) == (bool(words), wrong)


@pytest.fixture
def here(monkeypatch):
    """A processor with AVX-512 whose libraries do as they are told, and tests that pass."""
    told = {"Prescott": ("Katmai", ()), "Haswell": ("Haswell", ("X86_V3",)), "SkylakeX": ("SkylakeX", WIDE.numpy)}
    told["Zen"] = told["Haswell"]
    ran = []

    def look(asked):
        if not asked:
            return WIDE
        kernel, extensions = told[asked["OPENBLAS_CORETYPE"]]
        return Seen((kernel,), extensions, asked["ATEN_CPU_CAPABILITY"].upper())

    def run(asked, tests, jobs, more):
        ran.append((asked["OPENBLAS_CORETYPE"], tests))
        return 0

    monkeypatch.setattr(portable, "look", look)
    monkeypatch.setattr(portable, "flags", lambda: CAN)
    monkeypatch.setattr(portable, "run_tests", run)
    return told, ran


def test_all_and_the_quick_half(here, capsys):
    _, ran = here
    assert main([]) == 0
    assert ran == [(name, portable.FULL) for name in ("Prescott", "Haswell", "SkylakeX")]
    ran.clear()
    assert main(["--quick"]) == 0
    assert ran == [(name, portable.QUICK) for name in ("Prescott", "Haswell")]  # SkylakeX is what `make test` runs as
    ran.clear()
    assert main(["--list"]) == 0
    assert ran == []
    assert "Zen       Haswell     AVX2      left out: this OpenBLAS has no kernel" in capsys.readouterr().out


def test_a_failure_and_a_kernel_that_does_not_obey_are_errors(here, monkeypatch, capsys):
    told, _ = here
    told["Haswell"] = ("SkylakeX", ("X86_V3",))
    assert main([]) == 1
    assert "ERROR: asked for, but SkylakeX runs in OpenBLAS" in capsys.readouterr().out
    told["Haswell"] = ("Haswell", ("X86_V3",))
    monkeypatch.setattr(portable, "run_tests", lambda asked, *_: int(asked["OPENBLAS_CORETYPE"] == "SkylakeX"))
    assert main([]) == 1
    assert "SkylakeX  SkylakeX    AVX512    FAILED (pytest 1)" in capsys.readouterr().out


def test_nothing_shown_is_said(here, monkeypatch, capsys):
    monkeypatch.setattr(portable, "look", lambda asked: Seen((), (), None))
    assert main([]) == 0
    assert "nothing beyond `make test` was shown" in capsys.readouterr().out


def test_every_test_that_is_named_exists():
    for name in (*portable.QUICK, *portable.FULL, *portable.LEFT_OUT):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_libraries_of_this_machine_are_asked():
    asked = subprocess.run(
        [sys.executable, "tests/portable.py", "--list", "--only", "Prescott"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_CORETYPE": "", "NPY_DISABLE_CPU_FEATURES": ""},
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert asked.stdout.startswith("here: OpenBLAS")
    assert "Prescott  Katmai" in asked.stdout or "left out" in asked.stdout or "Prescott  Prescott" in asked.stdout
