"""Configurations: checked when made, one seed for all, YAML there and back; what does not fit is one line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.tasks.config import SECTIONS, Config, EvaluationConfig, FitConfig, RatiosConfig, RuntimeConfig


@given(
    st.builds(
        Config,
        fit=st.builds(
            FitConfig,
            max_train_steps=st.integers(1, 10**6),
            learning_rate=st.none() | st.floats(1e-300, 1.0),
            retain_share=st.floats(0, 1, exclude_max=True),
            mixed_precision=st.sampled_from(["no", "bf16"]),
            full_weights=st.booleans(),
        ),
        runtime=st.builds(RuntimeConfig, seed=st.integers(0, 2**63), report_to=st.just(("tensorboard",))),
        evaluation=st.builds(EvaluationConfig, confidence=st.floats(1e-12, 1, exclude_max=True, exclude_min=True)),
    )
)
def test_yaml_there_and_back_is_the_same(config):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert Config.from_yaml(path) == config


def test_one_seed_for_ratios_and_fit_unless_they_have_their_own():
    some = Config(runtime={"seed": 7}, fit={"seed": 3})
    assert (some.ratios.seed, some.fit.seed, some.evaluation.seed) == (7, 3, 9000)
    assert Config(runtime=RuntimeConfig(seed=7), ratios=RatiosConfig(seed=1)).ratios.seed == 1
    assert Config().fit.seed == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"fit": {"rank": 0}}, "fit: rank must be at least 1, got 0"),
        ({"fit": {"rank": "many"}}, "fit: rank must be a valid integer"),
        ({"evaluation": {"integrated": 1}}, "evaluation: integrated must be at least 2, got 1"),
        ({"evaluation": {"samples": 0, "sequential": True}}, "evaluation: sequential: samples is 0, and nothing is"),
        (
            {"evaluation": {"samples": 0, "concept_samples": 9}},
            "concept_samples: samples is 0, and nothing is measured",
        ),
        ({"evaluation": {"samples": 0, "aim": 0.5}}, "evaluation: aim: samples is 0, and nothing is measured"),
        ({"evaluation": {"aim": 1.5}}, "evaluation: aim must be at most 1, got 1.5"),
        ({"fit": {"ranks": 3}}, "fit: ranks is no field that is known here, got 3"),
        ({"fits": {}}, "fits is no field that is known here"),
        ({"evaluation": {"confidence": 1.0}}, "evaluation: confidence must be below 1, got 1.0"),
        ({"fit": {"mixed_precision": "fp8"}}, "fit: mixed_precision must be one of 'no' or 'bf16', got 'fp8'"),
        ({"runtime": {"report_to": ["magic"]}}, "report_to.0 must be one of 'tensorboard' or 'wandb', got 'magic'"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_field(data, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        Config(**data)
    assert "\n" not in str(error.value)


def test_nothing_is_changed_afterwards_and_changes_are_checked():
    with pytest.raises(ValueError, match="frozen"):
        FitConfig().rank = 3
    assert FitConfig(rank=3).but(seed=5) == FitConfig(rank=3, seed=5)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        FitConfig().but(rank=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fit: [1, 2", "cannot be read"),
        ("- 1", "must hold names and values, got list"),
        ("fit: {rank: 0}", "rank must"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as error:
        Config.from_yaml(path)
    assert str(path) in str(error.value)


def test_every_field_says_what_it_is():
    for section in SECTIONS.values():
        for name, info in section.model_fields.items():
            assert info.description, name
