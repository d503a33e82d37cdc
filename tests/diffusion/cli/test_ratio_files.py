"""Log ratios from files: what is no such file is one line with the reason, and what was written is read again."""

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("safetensors")

import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import duality as du
from diffusion.reports.exact import Frontier

from .test_main import run

VALUES = np.log(np.repeat([[5.0], [5 / 9]], [200, 1800], axis=0))
SOLVE = ("--problem", "likelihood", "--level", "0.06")


def files(folder):
    """Name -> (path of a file that holds no log ratios, what is said of it)."""
    whole = folder / "whole.safetensors"
    save_file({"values": VALUES, "priors": np.array([0.1])}, whole)
    data = whole.read_bytes()
    np.save(folder / "array.npy", VALUES)
    made = {
        "numpy": (folder / "array.npy", "is no safetensors file"),
        "csv": ("values\n1.0\n2.0\n", "is no safetensors file"),
        "empty": (b"", "is no safetensors file"),
        "cut off": (data[: len(data) // 2], "is no safetensors file, or not all of one"),
        "header cut off": (data[:20], "is no safetensors file"),
        "huge header": ((2**60).to_bytes(8, "little") + data[8:], "is no safetensors file"),
        "large header": ((2**26).to_bytes(8, "little") + data[8:], "is no safetensors file"),
        "header that is no JSON": ((4).to_bytes(8, "little") + b"abcd", "is no safetensors file"),
        "other tensors": ({"weights": VALUES}, "holds no tensor named values or anchor, but weights"),
        "no tensors": ({}, "holds no tensor named values or anchor, but none"),
        "text": ({"values": np.array([True, False])}, "tensor values is of type BOOL"),
        "three axes": ({"values": VALUES[None]}, "values: shape (n, m)"),
        "not a number": ({"values": VALUES * np.nan}, "values: nan at point 0"),
        "no points": ({"values": VALUES[:0]}, "values: empty"),
        "priors of two": ({"values": VALUES, "priors": np.array([0.1, 0.2])}, "priors: 2 given for 1"),
        "weights of others": ({"values": VALUES, "log_weights": np.zeros(3)}, "log_weights: shape (3,)"),
        "absent": ({"values": np.full((3, 1), -np.inf)}, "values: constraint 0 is -inf"),
    }
    for name, (content, message) in made.items():
        path = folder / f"{name}.safetensors"
        if isinstance(content, dict):
            save_file(content, path)
        elif isinstance(content, (bytes, str)):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        else:
            path = content
        yield name, path, message


def test_what_is_no_file_of_ratios_is_one_line_with_the_reason(monkeypatch, capsys, tmp_path):
    for name, path, message in files(tmp_path):
        for command in ("solve", "frontier"):
            code, out, err = run(monkeypatch, capsys, command, path, *SOLVE)
            assert (code, out) == (2, ""), (name, out)
            assert str(path) in err, name
            assert message in err, (name, err)
            assert len(err.splitlines()) == 1, (name, err)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ratios_in_less_than_double_precision_are_widened(monkeypatch, capsys, tmp_path, dtype):
    path = tmp_path / "r.safetensors"
    save_tensors({"values": torch.tensor(VALUES).to(dtype), "priors": torch.tensor([0.1], dtype=dtype)}, path)
    code, _, err = run(monkeypatch, capsys, "solve", path, *SOLVE, "--output", tmp_path)
    assert (code, err) == (0, "")
    found = du.Solution.from_json((tmp_path / "solution.json").read_text(encoding="utf-8"))
    priors = [torch.tensor(0.1, dtype=dtype).item()]
    expected = du.solve(du.Likelihood(0.06), du.LogRatios(torch.tensor(VALUES).to(dtype), priors=priors))
    assert found.to_json() == expected.to_json()


def test_what_solve_writes_is_read_again(monkeypatch, capsys, tmp_path):
    code, *_ = run(monkeypatch, capsys, "solve", "worked", "--problem", "likelihood", "--output", tmp_path / "one")
    assert code == 0
    solution = du.Solution.from_json((tmp_path / "one" / "solution.json").read_text(encoding="utf-8"))
    assert isinstance(solution.problem, du.Likelihood)
    code, *_ = run(monkeypatch, capsys, "solve", "worked", "--output", tmp_path / "all")
    assert code == 0
    assert not (tmp_path / "all" / "solution.json").exists()
    for name, kind in (("reverse-kl", du.ReverseKL), ("forward-kl", du.ForwardKL), ("likelihood", du.Likelihood)):
        text = (tmp_path / "all" / f"solution-{name}.json").read_text(encoding="utf-8")
        assert type(du.Solution.from_json(text).problem) is kind
    assert text == (tmp_path / "one" / "solution.json").read_text(encoding="utf-8")
    code, *_ = run(
        monkeypatch, capsys, "frontier", "worked", "--level", "0.2", "--level", "0.1", "--output", tmp_path / "curve"
    )
    assert code == 0
    curve = Frontier.model_validate_json((tmp_path / "curve" / "frontier.json").read_text(encoding="utf-8"))
    assert (curve.problem, [point.levels for point in curve.points]) == ("Likelihood", [(0.2,), (0.1,)])
    for point in curve.points:
        read = du.Solution.from_json(point.solution.to_json())
        assert (read.dual, tuple(read.multipliers), tuple(read.levels)) == (
            point.cost,
            point.multipliers,
            point.reached,
        )
        assert point.status == read.status.name.lower() == "optimal"
    code, _, err = run(monkeypatch, capsys, "frontier", "worked", "--level", "0.2", "--output", tmp_path / "point")
    assert (code, "a curve needs at least two" in err, (tmp_path / "point").exists()) == (2, True, False)


@pytest.mark.parametrize("text", ["１", "0.０5", "1_0", "0x1", "nan", "inf", "1e400", "1" + 400 * "0", "", "one"])
def test_levels_are_numbers_in_ascii(monkeypatch, capsys, text):
    for command in ("solve", "frontier"):
        code, out, err = run(monkeypatch, capsys, command, "worked", "--problem", "likelihood", f"--level={text}")
        assert (code, out) == (2, "")
        assert "--level" in err
        assert "is no number" in err or "beyond the range" in err


@pytest.mark.parametrize("text", ["１", "１%", "0.０5"])
def test_levels_of_concepts_are_too(monkeypatch, capsys, tmp_path, text):
    words = ("distill", "digits", "--concept", "seven", "--output", tmp_path / "out", "--level", text)
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert f"got {text!r}" in err
