"""A sweep: prompts of a task, axes by hand, frontiers, and that a run goes on where it stopped."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.evaluation.sweep.frontier import best_at, read_points, table, unbeaten
from diffusion.evaluation.sweep.frontier_plots import plot
from diffusion.evaluation.sweep.measure import Measured, elsewhere, right
from diffusion.evaluation.sweep.plan import METHODS, QUICK, STRENGTHS, Sweep
from diffusion.evaluation.sweep.point import Figure, Point, Setting, share
from diffusion.evaluation.sweep.quality import features, quality, renderings
from diffusion.runtime.documents import Estimate
from diffusion.wardrobe import OBJECTS, STYLES, cell_of
from diffusion.wardrobe.classifiers import classifiers
from diffusion.workflows import sweep as workflow
from diffusion.workflows.sweep import law_of, run_sweep
from duality.confidence import clopper_pearson

BOOT, NEON, ONE = (CanvasTask.of(text) for text in ("an ankle boot", "neon", "a sketch of a boot"))


@pytest.mark.parametrize("task", [BOOT, NEON, ONE], ids=lambda task: task.name)
def test_prompts_of_a_task(task):
    groups = task.groups(12, 0)
    assert {name: len(some) for name, some in groups.items()} == {
        **dict.fromkeys(("trained", "paraphrases", "contexts", "anchors"), 12),
        "retained": 48,
    }
    seen = {*task.asking, *task.anchors, *task.retained}
    for name in ("trained", "paraphrases", "contexts"):
        assert all(task.holds(cell_of(each.prompt)) for each in groups[name])
    assert {each.prompt for each in groups["trained"]} <= seen
    assert not {each.prompt for name in ("paraphrases", "contexts") for each in groups[name]} & seen
    for each in (*groups["retained"], *groups["contexts"]):
        assert cell_of(each.prompt) == each.cell
    assert not any(task.holds(each.cell) for each in (*groups["retained"], *groups["anchors"]))
    assert all(task.holds(cell_of(text)) for text in task.asking)
    assert not any(task.holds(cell_of(text)) for text in (*task.anchors, *task.retained))
    assert all(other and set(other) <= {each.prompt for each in task.prompts(False, (0, 1), (0,))}
               for other in task.relabelled)  # fmt: skip
    assert task.groups(12, 0) == groups
    assert task.groups(12, 1) != groups


def test_every_value_of_the_axis_is_retained_and_relabelled_in_its_own_words():
    assert {cell_of(text).object for text in BOOT.retained} == set(range(7))
    assert {cell_of(text).style for text in NEON.retained} == set(range(5))
    for task in (BOOT, NEON):
        for text, others in zip(task.asking, task.relabelled, strict=True):
            fixed = {(cell_of(other).style if task is BOOT else cell_of(other).object) for other in others}
            assert fixed == {cell_of(text).style if task is BOOT else cell_of(text).object}
    with pytest.raises(ValueError, match="no object or style"):
        CanvasTask.of("a seven")


def test_axes_by_hand():
    asked = BOOT.prompts(False, (0,), (1,))[:3]  # t-shirts in the first three styles on stripes
    assert [(each.cell.object, each.cell.style) for each in asked] == [(0, 0), (0, 1), (0, 2)]
    said = np.array([[0, 0, 1], [1, 1, 1], [0, 5, 0]])
    assert right(BOOT, asked, said).tolist() == [True, False, True]
    assert elsewhere(BOOT, asked, said).tolist() == [True, True, False]
    assert right(NEON, asked, said).tolist() == [True, True, False]
    assert elsewhere(NEON, asked, said).tolist() == [True, False, False]
    assert right(ONE, asked, said).tolist() == [True, False, False]
    assert elsewhere(ONE, asked, said).tolist() == [True, True, False]
    boots = np.array([[7, 1, 0], [7, 2, 0], [0, 1, 0]])
    assert BOOT.shown(boots).tolist() == [True, True, False]
    assert ONE.shown(boots).tolist() == [True, False, False]


def test_shares_have_exact_bounds_on_the_side_that_counts():
    gone = share("target_share", "asked", "CNN", np.zeros(100, bool))
    assert gone.bound.value == pytest.approx(1 - 0.05**0.01)
    assert gone.bound.side == "upper"
    kept = share("in_axis_accuracy", "retained", "CNN", np.ones(100, bool))
    assert kept.bound.value == pytest.approx(0.05**0.01)
    assert share("target_share", "asked", "CNN", np.arange(100) < 7).bound.value == pytest.approx(
        clopper_pearson(7, 100)
    )


def point(method, strength, ua, ira, cra, **more):
    figures = [
        *(share("target_share", name, "kernel machine", np.arange(1000) >= 1000 * ua)
          for name in ("asked", "trained", "paraphrases", "contexts", "anchors")),
        share("in_axis_accuracy", "retained", "kernel machine", np.arange(1000) < 1000 * ira),
        share("cross_axis_accuracy", "all", "kernel machine", np.arange(1000) < 1000 * cra),
        *(Figure(name=name, prompts=prompts, estimate=Estimate(mean=1.5, stderr=0.1, n=4))
          for name, prompts in (("energy_distance", "retained"), ("cost", "asked"), ("cost", "retained"))),
    ]  # fmt: skip
    setting = Setting(
        method=method, strength=strength, max_train_steps=5, learning_rate=1e-3, train_batch_size=2, seed=0
    )
    return Point(task="t", concept="boot", setting=setting, command="unlearn", figures=tuple(figures), **more)


def test_frontiers(tmp_path):
    assert unbeaten(np.array([[1, 0], [0, 1], [0.5, 0.5], [0.4, 0.5], [0.5, 0.5]])).tolist() == [1, 1, 1, 0, 1]
    some = [point("leco", 1, 0.9, 0.5, 0.9), point("leco", 2, 0.95, 0.9, 0.9), point("uce", 1, 0.99, 0.2, 0.1)]
    assert best_at(some, 0.9, "kernel machine").setting.strength == 2
    assert best_at(some, 0.96, "kernel machine").setting.method == "uce"
    assert best_at(some, 1.0, "kernel machine") is None
    failed = point("esd-x", 1, 0, 0, 0).model_copy(update={"failed": "not finite", "figures": ()})
    lines = table([*some, failed], "kernel machine")
    assert [line.rstrip().endswith("*") for line in lines[2:]] == [False, False, True, True]
    assert "failed: not finite" in lines[2]
    plot([*some, failed], "kernel machine", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    for each in some:
        (tmp_path / f"point-{each.setting.label}.json").write_text(each.to_json(), encoding="utf-8")
    assert sorted(read.setting.label for read in read_points(tmp_path)) == sorted(e.setting.label for e in some)
    (tmp_path / "point-broken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"point-broken\.json is no point"):
        read_points(tmp_path)


def test_settings_come_in_turns_and_quick_has_one_of_each():
    first = [each.method for each in Sweep().settings()[: len(METHODS)]]
    assert first == list(METHODS)
    labels = [each.label for each in Sweep(seeds=(0, 1)).settings()]
    assert len(labels) == len(set(labels))
    assert {each.method for each in Sweep().settings()} == set(STRENGTHS)
    assert any(each.full_weights and each.max_train_steps == 200 for each in Sweep().settings())
    quick = QUICK.settings()
    assert [each.method for each in quick] == list(METHODS)
    assert max(each.max_train_steps for each in quick) == 2
    with pytest.raises(ValueError, match="must be one of ours"):
        Sweep(methods=("magic",))


def test_the_law_of_ours_has_every_prompt_that_baselines_see():
    law = law_of(BOOT)
    assert {*BOOT.asking, *BOOT.anchors, *BOOT.retained, ""} == set(law.texts)
    anchors = {each.prompt: each.anchor for each in law.prompts}
    assert anchors["boot sketch"] == "garment sketch"
    assert anchors["garment sketch"] is None
    assert law.probabilities[: len(BOOT.asking)].sum() == pytest.approx(0.4)


def test_a_sweep_resumes_and_refuses_another_task(monkeypatch, tmp_path):
    from diffusion.api import open_denoiser
    from diffusion.tasks.config import Sampling

    denoiser = open_denoiser("wardrobe")
    small = Sweep(
        methods=("uce",), measured=Measured(samples=2, chains=1), quick=True,
        sampling=Sampling(guidance_scale=3, num_inference_steps=2),
    )  # fmt: skip
    points = run_sweep(denoiser, BOOT, small, tmp_path)
    assert [each.setting.method for each in points] == ["before", "uce"]
    assert points[0].of("cost", "retained").mean == 0
    assert points[0].of("cost", "asked").mean > 0
    assert points[1].of("cost", "retained").mean > 0
    paid = points[1].figure("cost", "retained")
    assert len(paid.values) == paid.estimate.n == 1  # one for each chain
    assert paid.values[0] == pytest.approx(paid.estimate.mean, rel=1e-4)
    assert points[0].of("kid_change", "retained").mean == 0
    moved = points[1].of("kid", "retained").mean - points[0].of("kid", "retained").mean
    assert points[1].of("kid_change", "retained").mean == pytest.approx(moved)
    assert moved != 0
    assert points[1].bytes == 4 * 2 * 4 * 128 * 64
    assert "uce" in (tmp_path / "sweep.txt").read_text(encoding="utf-8")
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("point-*.json")}
    assert json.loads(kept["point-uce-100-1x1-1-weights-0.json"])["concept"] == "boot"
    monkeypatch.setattr(workflow, "_one", None)
    run_sweep(denoiser, BOOT, small, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("point-*.json")} == kept
    monkeypatch.undo()
    (tmp_path / "point-uce-100-1x1-1-weights-0.json").unlink()
    (tmp_path / "point-before-0-0x0-0-lora-0.json").unlink()
    more = dataclasses.replace(small, points=1)
    assert [each.setting.method for each in run_sweep(denoiser, BOOT, more, tmp_path)] == ["before"]
    # The base model's samples are read, not made again, and are the same.
    monkeypatch.setattr(workflow, "make", None)
    again = run_sweep(denoiser, BOOT, more, tmp_path)
    for one, two in zip(again, points, strict=True):  # as text, where NaN is NaN
        assert [each.model_dump_json() for each in one.figures] == [each.model_dump_json() for each in two.figures]
    with pytest.raises(ValueError, match="another task"):
        run_sweep(denoiser, NEON, small, tmp_path)


def test_kid_of_renderings_is_small_and_rises_with_the_wrong_ones():
    asked, real = renderings(BOOT, 7)
    said = classifiers()[0](real)
    assert right(BOOT, asked, said).mean() > 0.9
    assert elsewhere(BOOT, asked, said).mean() > 0.9
    others = renderings(BOOT, 8, 64)[1]  # other photographs
    other, wrong = features(others), features(np.roll(others, 8, axis=3))
    same, worse = quality(BOOT, other, other, 7), quality(BOOT, other, wrong, 7)
    assert abs(same[0].estimate.mean) < 4 * same[0].estimate.stderr
    assert worse[1].estimate.mean > 4 * worse[1].estimate.stderr
    assert same[1].estimate.mean == 0
    assert worse[1].estimate.mean == pytest.approx(worse[0].estimate.mean - same[0].estimate.mean)


def test_points_of_before_kid_was_measured_are_read():
    (line,) = table([point("leco", 1, 0.9, 0.5, 0.9)], "kernel machine")[2:]
    assert "leco" in line


def test_a_method_that_diverges_is_a_point_that_says_so(monkeypatch, tmp_path):
    from diffusion.api import open_denoiser
    from diffusion.tasks.config import Sampling

    class Broken:
        def fit(self, context):
            raise FloatingPointError("the loss at step 0 is nan")

    monkeypatch.setattr(workflow, "erasure_of", lambda name, strength: Broken())
    small = Sweep(
        methods=("leco",), measured=Measured(samples=2, chains=1), quick=True,
        sampling=Sampling(guidance_scale=3, num_inference_steps=1),
    )  # fmt: skip
    points = run_sweep(open_denoiser("wardrobe"), BOOT, small, tmp_path)
    assert points[1].failed == "the loss at step 0 is nan"


def test_the_canvas_names_what_it_knows():
    assert BOOT.name == "boot"
    assert ONE.name == "sketch boot"
    assert NEON.axis == "style"
    assert len(BOOT.asking) == 2 * (len(STYLES) + 1)
    assert len(ONE.asking) == 2
    assert len(NEON.asking) == 2 * (len(OBJECTS) + 1)
