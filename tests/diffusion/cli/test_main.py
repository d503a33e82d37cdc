"""The command line as a user meets it: good input ends with results, bad input with one clear line and no file."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")

from diffusion.cli import main as cli
from diffusion.reports.exact import Verification

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def run(monkeypatch, capsys, *words):
    """(exit code, stdout, stderr) of `unlearn WORDS`."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr()
    return ended.value.code or 0, out.out, out.err


DISTILL = ("distill", "digits", "--concept", "a handwritten seven", "--level", "0.01")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (
                "distill",
                "no/such/place",
                "--concept",
                "cat",
                "--retained-prompt",
                "dog",
                "--prior",
                "0.1",
                "--level",
                "0.01",
            ),
            "model",
        ),
        (
            (
                "distill",
                "/nowhere",
                "--concept",
                "cat",
                "--retained-prompt",
                "dog",
                "--prior",
                "0.1",
                "--level",
                "0.01",
            ),
            "neither",
        ),
        (("distill", "digits", "--concept", "", "--level", "0.01"), "empty string"),
        (("distill", "digits", "--concept", "a purple cow", "--level", "0.01"), "none of the ten digits"),
        (("distill", "digits", "--concept", "seven", "--level", "1.5"), "strictly between 0 and 1"),
        (("distill", "digits", "--concept", "seven", "--level", "0"), "strictly between 0 and 1"),
        (("distill", "digits", "--concept", "seven", "--level", "0.1", "--problem", "magic"), "problem must be one of"),
        (("distill", "digits", "--concept", "seven", "--level", "0.1", "--method", "magic"), "one of tilted, guidance"),
        (
            ("distill", "digits", "--concept", "seven", "--level", "1%", "--problem", "reverse-kl"),
            "no share of the samples",
        ),
        (("distill", "digits", "--concept", "seven", "--level", "lots"), "got 'lots'"),
        (("distill", "digits", "--level", "0.1"), "concept must be given"),
        (("distill", "model", "--concept", "cat | ", "--level", "0.1"), "empty string in 'cat | '"),
        (("distill", "--concept", "a", "--level", "0.1"), "model must be given"),
        (("distill", "model", "--concept", "a"), "level must be given"),
        (
            ("distill", "model", "--concept", "a", "--level", "0.1", "--config", "/nowhere"),
            "config '/nowhere' is neither",
        ),
        (("distill", "model", "--concept", "cat", "--level", "0.1", "--vocabulary", "/nowhere"), "is no file"),
        (("distill", "model", "--examples", "/nowhere", "--level", "0.1"), "neither a file nor a folder"),
        (
            ("distill", "digits", "--concept", "seven", "--level", "0.1", "--prior", "1.5"),
            "prior must be below 1, got 1.5",
        ),
        (("audit", "digits", "--concept", "seven", "--lora", "/nowhere"), "is no folder"),
        (("bench", "digits", "--method", "magic"), "no training, tilted"),
        (("bench", "digits", "--seeds", "0"), "at least 1"),
        (("bench", "digits", "--evaluation-samples", "0"), "concept_samples: samples is 0, and nothing is measured"),
        (("demo", "--evaluation-samples", "0"), "the demo is there to measure, and 0 were given"),
        (
            (*DISTILL, "--evaluation-samples", "0", "--evaluation-concept-samples", "9"),
            "concept_samples: samples is 0, and nothing is measured",
        ),
        (("bench", "digits", "--guidance-scale", "3"), "log ratios between prompts are those of guidance scale 1"),
        (("distill", *DISTILL[1:], "--guidance-scale", "3", "--dry-run"), "are those of guidance scale 1"),
        (("sample", *DISTILL[1:], "--negative-prompt", "ugly"), "1, 'ugly' given"),
        (("distill", "digits", "--concept", "seven", "--level", "-1", "--problem", "reverse-kl"), "never negative"),
        (("sample", "digits", "--concept", "seven", "--level", "0.01", "--count", "0"), "at least 1"),
        (("sample", "digits", "--concept", "seven", "--level", "0.01", "--lora", "/nowhere"), "is no folder"),
    ],
)
def test_bad_input_is_one_clear_line(monkeypatch, capsys, tmp_path, words, message):
    code, out, err = run(
        monkeypatch, capsys, *words, "--output", tmp_path / "out", "--cache-folder", tmp_path / "cache"
    )
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_output_that_is_not_empty_is_kept(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").write_text("x")
    code, _, err = run(monkeypatch, capsys, *DISTILL, "--output", tmp_path)
    assert code == 2
    assert "not empty" in err
    assert "--overwrite" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_solve_prints_and_writes(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "solve", "worked", "--output", tmp_path / "out")
    assert code == 0
    for number in ("0.0515382", "0.287227", "3.78946"):
        assert number in out
    for name, kind in (("reverse-kl", "ReverseKL"), ("forward-kl", "ForwardKL"), ("likelihood", "Likelihood")):
        data = json.loads((tmp_path / "out" / f"solution-{name}.json").read_text())
        assert data["problem"]["type"] == kind
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000


def test_frontier_prints_a_curve(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "frontier", "worked", "--level", "0.2", "--level", "0.05")
    assert code == 0
    assert len(out.splitlines()) == 3


def test_cached_ratios_are_solved(monkeypatch, capsys, tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    values = np.log(np.repeat([[5.0], [5 / 9]], [200, 1800], axis=0))
    save_file({"values": values, "priors": np.array([0.1])}, tmp_path / "r.safetensors")
    code, out, _ = run(
        monkeypatch, capsys, "solve", tmp_path / "r.safetensors", "--problem", "likelihood", "--level", "0.06"
    )
    assert code == 0
    assert "optimal" in out
    code, _, err = run(monkeypatch, capsys, "solve", tmp_path / "r.safetensors", "--problem", "likelihood")
    assert (code, "level is needed" in err) == (2, True)


def test_infeasible_level_says_what_could_be_had(monkeypatch, capsys, tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    save_file({"values": np.log(np.full((500, 1), 1.0)), "priors": np.array([0.3])}, tmp_path / "r.safetensors")
    code, _, err = run(
        monkeypatch, capsys, "solve", tmp_path / "r.safetensors", "--problem", "likelihood", "--level", "0.1"
    )
    assert code == 2
    assert "0.3" in err


def test_verify_passes_and_fails_by_its_exit_code(monkeypatch, capsys, tmp_path):
    code, out, _ = run(
        monkeypatch, capsys, "verify", "--instances", "2", "--seed", "1", "--jobs", "1", "--output", tmp_path / "v.json"
    )
    assert code == 0, out
    assert "seed 1" in out
    written = Verification.model_validate_json((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert (written.seed, written.passed) == (1, True)
    assert all(one.worst <= one.tolerance and one.name in out for one in written.theorems)
    from toy.verification import verify

    real = verify.verify

    def broken(*arguments, **more):
        from dataclasses import replace

        first, *others = real(*arguments, **more)  # one that crashed among those that did not
        return [replace(first, passed=False, worst=float("inf"), message="no pivot"), *others]

    monkeypatch.setattr(verify, "verify", broken)
    code, _, _ = run(
        monkeypatch, capsys, "verify", "--instances", "1", "--seed", "1", "--jobs", "1", "--output", tmp_path / "v.json"
    )
    assert code == 1
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    written = Verification.model_validate_json(text)
    assert not written.passed
    assert [one.passed for one in written.theorems] == [False, *[True] * (len(written.theorems) - 1)]
    assert json.loads(text)["theorems"][0]["worst"] == "Infinity"


def test_the_version_is_that_of_the_installed_package(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--version")
    assert (code, out, err) == (0, f"unlearn {version('unlearning-duality')}\n", "")
    assert version("unlearning-duality") == tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]


def test_help_is_of_unlearn_itself(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    assert "--version" in out
    assert "Unlearning in diffusion models, solved exactly" in out  # not the docstring of what holds the option


PIPELINE_COMMANDS = ("ratios", "distill", "sample", "forget", "audit", "bench", "demo", "export", "recount")


@pytest.mark.parametrize("command", PIPELINE_COMMANDS)
def test_every_command_on_a_pipeline_names_the_extra_that_it_lacks(monkeypatch, capsys, tmp_path, command):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = [] if command == "demo" else ["digits"]
    code, out, err = run(monkeypatch, capsys, command, *model, "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "peft: install unlearning-duality[diffusion]" in err
    assert not (tmp_path / "out").exists()


def test_those_are_all_commands_but_the_ones_on_densities():
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert names == {*PIPELINE_COMMANDS, "solve", "frontier", "verify", "explore"}


def test_a_missing_extra_is_named():
    """Without typer, and without torch: one line that says what to install."""
    block = "import sys; sys.modules[{!r}] = None; sys.argv = {!r}; from diffusion.cli.main import main; main()"
    for module, words, message in (
        ("typer", ["unlearn"], "install unlearning-duality[cli]"),
        ("diffusers", ["unlearn", "demo"], "install unlearning-duality[diffusion]"),
        ("torch", ["unlearn", "ratios", "digits", "--concept", "cat"], "install unlearning-duality[diffusion]"),
    ):
        out = subprocess.run([sys.executable, "-c", block.format(module, words)], capture_output=True, text=True)
        assert out.returncode != 0
        assert message in out.stderr
        assert "Traceback" not in out.stderr


def test_loading_a_pipeline_says_nothing_of_what_the_libraries_lack_nor_draws_bars_into_a_log():
    pytest.importorskip("diffusers")
    code = "import diffusion.cli.main; from diffusion.pipelines import load_pipeline; load_pipeline('digits')"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
