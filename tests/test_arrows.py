"""The dependency arrows: toy -> duality, diffusion -> duality, and only the command line sees all three."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("duality", "toy", "diffusion")
ALLOWED = {"duality": {"duality"}, "toy": {"toy", "duality"}, "diffusion": {"diffusion", "duality"}}
COMMAND_LINE = {"diffusion/cli.py", "diffusion/cli_toy.py"}
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "matplotlib",
    "cvxpy",
    "cooper",
    "sklearn",
    "typer",
}


def imported(tree: ast.AST, package: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else (node.module or "").split(".")[0])
    return names


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    assert modules(package), f"no modules found in {package}"
    for path in modules(package):
        if path.relative_to(ROOT).as_posix() in COMMAND_LINE:
            continue
        seen = imported(ast.parse(path.read_text(encoding="utf-8")), package) & set(PACKAGES)
        assert seen <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {sorted(seen - ALLOWED[package])}"


def test_the_core_imports_nothing_heavy_at_import_time():
    # In a fresh interpreter: importing duality and toy must work with the light core alone.
    import subprocess
    import sys

    code = f"import sys, duality, toy; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_top_level_holds_what_the_design_says():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    grown = {"out", "runs", "build", "dist", "unlearning_duality.egg-info", "__pycache__"}
    assert folders - grown == {*PACKAGES, "tests", "docs"}
