"""`--textual-inversion`: a concept that a token asks for, through a whole run, its rerun and its samples."""

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("typer")
from diffusion.tasks.settings import read_yaml
from tests.diffusion import families
from tests.diffusion.cli.commands import error, run, small

pytestmark = [pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning"), pytest.mark.usefixtures("quick")]


def test_a_token_is_unlearned_and_its_result_is_sampled_and_run_again(monkeypatch, capsys, place, tmp_path):
    file = tmp_path / "toy.safetensors"
    save_file({"<toy>": torch.randn(2, families.WIDTH, generator=torch.Generator().manual_seed(0))}, file)
    words = (
        *("distill", place / "sd", "--concept", "<toy> | a <toy>", "--retained-prompt", "one", "--prior", "0.1"),
        *("--level", "0.99x", *small(place), "--max-train-steps", "2", "--rank", "1", "--evaluation-samples", "0"),
        *("--fixed-multipliers", "--cache-folder", tmp_path / "cache", "--textual-inversion", file),
    )
    run(monkeypatch, capsys, *words, "--output", tmp_path / "out")
    assert read_yaml(tmp_path / "out" / "config.yaml")["runtime"]["textual_inversion"] == [str(file)]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"pipeline.load_textual_inversion({str(file)!r}, token='<toy>')" in card
    run(
        monkeypatch,
        capsys,
        "sample",
        tmp_path / "out",
        "--prompt",
        "a <toy>",
        "--count",
        "2",
        "--output",
        tmp_path / "s",
    )
    run(monkeypatch, capsys, "distill", tmp_path / "out", "--output", tmp_path / "again")
    first, again = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("out", "again"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    file.unlink()
    message = error(monkeypatch, capsys, "sample", tmp_path / "out", "--count", "2", "--output", tmp_path / "none")
    assert "is no file (give FILE or TOKEN=FILE)" in message
    assert not (tmp_path / "none").exists()
