"""A small task for the command line, and the command line run on it."""

import sys

import pytest

pytest.importorskip("typer")
from diffusion.cli import main as cli

TASK = (
    "--concept",
    "seven | a handwritten seven",
    "--concept",
    "eight",
    "--retained-prompt",
    "one | the digit 1 in ink",
)


SETTINGS = """
sampling: {num_inference_steps: 2}
ratios:
  concept_samples: 12
  retained_samples: 12
  num_samples: 24
  noisings: 2
  classifier_steps: 10
  elbo_samples: 6
  elbo_noise_levels: 2
evaluation: {retained_samples: 12, integrated: 8}
"""


def small(place):
    """What a network with random weights needs."""
    return "--config", place / "small.yaml"


def run(monkeypatch, capsys, *words):
    """stdout of `unlearn WORDS`, which must end well."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr()
    assert not ended.value.code, out.err
    return out.out


def error(monkeypatch, capsys, *words):
    """stderr of `unlearn WORDS`, which must end with code 2."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err
