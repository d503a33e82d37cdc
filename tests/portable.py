"""The numerical tests on other processors, as far as this one can stand in for them.

    python tests/portable.py            every processor, all numerical tests
    python tests/portable.py --quick    the others than this one, and fewer tests: what CI runs beside `make test`
    python tests/portable.py --list     which processors, and why not the others

The order in which a sum is taken, and whether its products are fused into it, is the processor's choice: OpenBLAS
(NumPy and SciPy each bring one) has a kernel for each kind, NumPy's own loops and torch have a few. All three can be
told to take those of an older processor. Each is then asked what it runs: one that does not do as told is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Where a tolerance stands beside a sum. The rest of the suite is files, pages and commands.
QUICK = (
    "tests/duality",
    "tests/properties",
    "tests/diffusion/evaluation/test_metrics.py",
    "tests/diffusion/methods/test_lagrangians.py",
    "tests/diffusion/pipelines/test_schedules.py",
    "tests/diffusion/ratios/test_trajectory.py",
)
FULL = (
    "tests/duality",
    "tests/properties",
    "tests/toy",
    "tests/diffusion/evaluation",
    "tests/diffusion/guidance",
    "tests/diffusion/methods",
    "tests/diffusion/pipelines",
    "tests/diffusion/ratios",
    "tests/diffusion/training",
)
LEFT_OUT = ("tests/toy/test_explorer_browser.py", "tests/toy/test_explorer_page.py", "tests/toy/test_toy_plots.py")

AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Processor:
    """A kind of processor: the OpenBLAS kernel of that name, what it must be able to do, and torch's capability.

    ``reported``: what OpenBLAS calls the kernel. ``instead``: the kernel that it takes where it was built without one.
    """

    name: str
    flags: frozenset[str]
    torch: str
    reported: str = ""
    instead: str = ""

    @property
    def kernel(self) -> str:
        return self.reported or self.name


PROCESSORS = (
    # On x86-64 the tables of Katmai and Prescott are one, which goes by the older name.
    Processor("Prescott", frozenset(), "DEFAULT", reported="Katmai"),
    Processor("Haswell", AVX2, "AVX2"),
    Processor("SkylakeX", AVX512, "AVX512"),
    Processor("Zen", AVX2, "AVX2", instead="Haswell"),
)

PROBE = """
import json, os, sys
import numpy, scipy.linalg, threadpoolctl
blas = sorted({i["architecture"] for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"})
found = numpy.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
try:
    import torch
    capability = torch.backends.cpu.get_cpu_capability()
except ImportError:
    capability = None
print(json.dumps({"blas": blas, "numpy": found, "torch": capability}))
"""


@dataclass(frozen=True)
class Seen:
    """What the libraries run: OpenBLAS kernels, NumPy's extensions beyond its baseline, torch's capability."""

    blas: tuple[str, ...]
    numpy: tuple[str, ...]
    torch: str | None


def look(environment: dict[str, str]) -> Seen:
    """Ask the libraries, in an interpreter of their own."""
    asked = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    said = json.loads(asked.stdout.splitlines()[-1])
    return Seen(tuple(said["blas"]), tuple(said["numpy"]), said["torch"])


def flags() -> frozenset[str]:
    """What the processor says it can do; nothing where the system keeps no list."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def environment(processor: Processor, own: Seen) -> dict[str, str]:
    """Variables that make the libraries behave as on that processor. ``own``: what they run when left alone."""
    asked = {"OPENBLAS_CORETYPE": processor.name, "ATEN_CPU_CAPABILITY": processor.torch.lower()}
    beyond = [name for name in own.numpy if not _within(name, processor)]
    if beyond:
        asked["NPY_DISABLE_CPU_FEATURES"] = " ".join(beyond)
    return asked


def _within(extension: str, processor: Processor) -> bool:
    """Whether a processor has an extension of NumPy's, AVX2, FMA3, AVX512F, … or the levels X86_V3 and X86_V4."""
    wide = extension.startswith("AVX512") or extension == "X86_V4"
    return processor.flags >= AVX512 if wide else processor.flags >= AVX2


def objection(processor: Processor, seen: Seen, can: frozenset[str]) -> tuple[str, bool]:
    """Why the tests cannot run as on that processor ("" where they can), and whether that is an error.

    ``seen``: what runs when it is asked for. ``can``: the flags of the processor that is here.
    """
    if not seen.blas:
        return "neither NumPy nor SciPy uses OpenBLAS here", False
    lacking = sorted(processor.flags - can)
    if lacking:
        return f"this processor lacks {', '.join(lacking)}", False
    if processor.instead and seen.blas == (processor.instead,):
        return f"this OpenBLAS has no kernel of that name and takes {processor.instead}'s", False
    # A library may have been built with a table of Prescott's own.
    if not set(seen.blas) <= {processor.kernel, processor.name}:
        wrong = f"{' and '.join(seen.blas)} runs in OpenBLAS"
    elif not all(_within(name, processor) for name in seen.numpy):
        wrong = f"{' and '.join(seen.numpy)} runs in NumPy"
    elif seen.torch not in (None, processor.torch):
        wrong = f"{seen.torch} runs in torch"
    else:
        return "", False
    # What cannot be said to be an x86-64 has kernels of other names, and is not at fault.
    return f"asked for, but {wrong}", "sse2" in can


def run_tests(environment: dict[str, str], tests: Sequence[str], jobs: int, more: Sequence[str]) -> int:
    """pytest's exit status."""
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HYPOTHESIS_PROFILE": "ci"}
    spread = ["-n", str(jobs)] if jobs > 1 else []
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *spread, *left_out, *tests, *more]
    return subprocess.run(command, cwd=ROOT, env=os.environ | alone | environment).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="not the processor that is here, and fewer tests")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--only", choices=[p.name for p in PROCESSORS], help="one processor")
    parser.add_argument("--jobs", type=int, default=1, help="test processes (pytest-xdist)")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest, after --")
    given = parser.parse_args(arguments)
    own, can, rows, failed, ran = look({}), flags(), [], False, False
    print(f"here: OpenBLAS {' '.join(own.blas) or 'none'}; NumPy {' '.join(own.numpy)}; torch {own.torch}", flush=True)
    for processor in PROCESSORS:
        if given.only not in (None, processor.name):
            continue
        asked = environment(processor, own)
        seen = look(asked)
        why, wrong = objection(processor, seen, can)
        if why:
            verdict = f"{'ERROR' if wrong else 'left out'}: {why}"
            failed = failed or wrong
        elif given.list:
            verdict = "can run"
        elif given.quick and seen == own:
            verdict = "left out: `make test` runs as on this one"
        else:
            said = " ".join(f"{name}={value!r}" for name, value in asked.items())
            print(f"\n{processor.name}: {said}", flush=True)
            start = time.perf_counter()
            status = run_tests(asked, QUICK if given.quick else FULL, given.jobs, given.pytest)
            ran = True
            verdict = (
                f"{'passed' if status == 0 else f'FAILED (pytest {status})'} in {time.perf_counter() - start:.0f} s"
            )
            failed = failed or status != 0
        rows.append(f"{processor.name:<10}{' '.join(seen.blas):<12}{seen.torch or '-':<10}{verdict}")
    print("\nprocessor OpenBLAS    torch     verdict", *rows, sep="\n")
    if not ran and not given.list:
        print("no other processor can be stood in for here: nothing beyond `make test` was shown")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
