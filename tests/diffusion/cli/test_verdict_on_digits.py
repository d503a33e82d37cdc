"""The command that used to certify a network that had hardly been trained: 9 % of its samples show what must go."""

import json
import sys

import pytest

pytest.importorskip("typer")

from diffusion.cli import main as cli


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_step_of_training_is_not_certified(monkeypatch, capsys, tmp_path):
    words = (
        *("distill", "digits", "--concept", "a handwritten seven", "--level", "0.01"),
        *("--max-train-steps", "1", "--rank", "1", "--fixed-multipliers", "--num-samples", "1000"),
        *("--concept-samples", "300", "--retained-samples", "500"),
        *("--evaluation-samples", "600", "--cache-folder", tmp_path / "cache", "--output", tmp_path / "out"),
    )
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "certified: False (at 95 % confidence)" in out
    assert "solution: passed" in out
    assert "ratios: passed" in out
    assert "level not shown: 'a handwritten seven' under the anchor, by SVM: 0.0" in out
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["certified"] is False
    assert {(level["prompts"], level["met"]) for level in proof["fitted_model"]["measured"]["levels"]} == {
        ("anchor", False),
        ("concept", False),
    }
    assert all(level["bound"]["value"] > 0.05 for level in proof["fitted_model"]["measured"]["levels"])
