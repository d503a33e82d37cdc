"""The embedded wardrobe from the command line alone: nothing but a concept has to be said."""

import json

import pytest

pytest.importorskip("typer")

from diffusion.evaluation.audit_table import AuditReport
from diffusion.evaluation.benchmark_table import Table
from tests.diffusion.cli.commands import error, run

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")

CONFIG = """
sampling: {num_inference_steps: 2}
ratios: {concept_samples: 16, retained_samples: 32, num_samples: 48, noisings: 2, classifier_steps: 10,
  elbo_samples: 6, elbo_noise_levels: 2}
fit: {max_train_steps: 1, train_batch_size: 6, rank: 1, fixed_multipliers: true}
evaluation: {samples: 300, concept_samples: 60, retained_samples: 8, integrated: 2}
audit: {samples: 4, guidance_scales: [3], relearn_steps: 0}
"""


@pytest.mark.slow
def test_distill_audit_and_bench(monkeypatch, capsys, tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    more = ("--config", tmp_path / "run.yaml", "--cache-folder", tmp_path / "cache")
    task = ("wardrobe", "--concept", "a boot", "--level", "0.9x", "--prior", "0.12")
    run(monkeypatch, capsys, "distill", *task, "--output", tmp_path / "gone", *more)
    proof = json.loads((tmp_path / "gone" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["question"]["concepts"][0]["name"] == "a boot"
    out = run(monkeypatch, capsys, "audit", tmp_path / "gone", "--output", tmp_path / "audit")
    assert "kernel machine" in out
    report = AuditReport.model_validate_json((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert {cell.concept for cell in report.cells} == {"a boot"}
    words = ("bench", *task, "--methods", "neggrad", "--seeds", "1", "--output", tmp_path / "bench", *more)
    run(monkeypatch, capsys, *words, "--evaluation-samples", "8")
    table = Table.model_validate_json((tmp_path / "bench" / "bench.json").read_text(encoding="utf-8"))
    assert table.rows[0].of("prompt_accuracy", by="CNN").n == 1


def test_a_concept_that_the_canvas_has_not(monkeypatch, capsys, tmp_path):
    words = ("distill", "wardrobe", "--concept", "a seven", "--level", "1%", "--output", tmp_path / "out")
    assert "names no object or style of wardrobe" in error(monkeypatch, capsys, *words)
