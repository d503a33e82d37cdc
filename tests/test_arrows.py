"""The dependency arrows: toy -> duality <- diffusion, and inside `diffusion` from each room to those on its left."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("duality", "toy", "diffusion")
ALLOWED = {"duality": {"duality"}, "toy": {"toy", "duality"}, "diffusion": {"diffusion", "duality"}}
COMMAND_LINE = "diffusion/cli/"
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
# A room may import from itself and from those on its left. `digits` and `wardrobe` are tasks with their data, used like
# one; their experiments use everything but the command line. `diffusion` itself holds the two calls that a user makes.
ROOMS = (
    *("runtime", "pipelines", "tasks", "digits", "wardrobe", "ratios", "guidance", "training", "methods", "evaluation"),
    *("reports", "workflows", "api", "", "digits.experiments", "wardrobe.experiments", "cli"),
)


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in the file, relative ones resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # A name may be a module of that package, or something defined in it.
            found = {f"{module}.{alias.name}" for alias in node.names if is_module(module, alias.name)}
            names |= found or {module}
    return names


def is_module(package: str, name: str) -> bool:
    folder = ROOT / package.replace(".", "/")
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(module: str) -> str:
    """The room that a module of `diffusion` lives in: the longest name in ROOMS that its path starts with."""
    inside = module.removeprefix("diffusion").removeprefix(".")
    fits = [room for room in ROOMS if inside == room or inside.startswith(f"{room}.")]
    return max(fits, key=len, default="")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    assert modules(package), f"no modules found in {package}"
    for path in modules(package):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith(COMMAND_LINE):
            seen = {name.partition(".")[0] for name in imported(path)} & set(PACKAGES)
            assert seen <= ALLOWED[package], f"{where} imports {sorted(seen - ALLOWED[package])}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_from_their_left(room):
    files = [path for path in modules("diffusion") if room_of(dotted(path)) == room]
    assert files, f"the room {room!r} is empty"
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in sorted(imported(path))
        if name.partition(".")[0] == "diffusion" and room_of(name) not in allowed
    ]
    assert wrong == []


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_an_import_that_points_right_is_seen(tmp_path, monkeypatch):
    """The test above can fail: a file of `runtime` that imports from `methods`, at its top or inside a function."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for line in ("from diffusion.methods.base import Outcome", "def f():\n    from ..methods import base"):
        path = tmp_path / "diffusion" / "runtime" / "files.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line, encoding="utf-8")
        (name,) = imported(path)
        assert room_of(name) == "methods"
        assert ROOMS.index(room_of(name)) > ROOMS.index(room_of(dotted(path)))


def test_the_core_imports_nothing_heavy_at_import_time():
    # In a fresh interpreter: importing duality and toy must work with the light core alone.
    code = f"import sys, duality, toy; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_top_level_holds_what_the_design_says():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    grown = {"out", "runs", "build", "dist", "wheels", "unlearning_duality.egg-info", "__pycache__"}
    assert folders - grown == {*PACKAGES, "tests", "docs"}
