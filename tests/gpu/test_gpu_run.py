"""The program for a GPU, on a CPU: every part runs, failures and the end of time are said, no figure is invented."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusion
from diffusion.workflows.validation import NothingToDo
from tests.diffusion.short import short_chains
from tests.gpu import measure, models, run, table
from tests.gpu.table import DOCS, NOTHING, put_in, tables


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    with short_chains():
        assert run.main(["--tiny", "--device", "cpu", "--output", str(folder)]) == 0
    return json.loads((folder / "gpu.json").read_text())


def test_every_part_is_there(found):
    assert list(found["parts"]) == list(run.PARTS)
    assert not found["accelerator"]
    assert found["tiny"]
    assert not [name for name, part in found["parts"].items() if "failed" in part]


def test_every_stage_is_timed_and_its_evaluations_are_counted(found):
    for name in ("sd15", "sdxl"):
        stages = {stage["name"]: stage for stage in found["parts"][name]["stages"]}
        assert {"samples of known prompts", "samples of q", "features for the classifier", "ratio classifier"} <= set(
            stages
        )
        assert {"log ratios", "ELBO check", "fit of the LoRA", "evaluation samples"} <= set(stages)
        assert all(stage["seconds"] > 0 for stage in stages.values())
        drawn = stages["samples of q"]  # 20 samples in 2 steps each, and nothing else
        assert (drawn["units"], drawn["evaluations"], drawn["evaluations_with_gradient"]) == (20, 40, 0)
        fit = stages["fit of the LoRA"]
        assert fit["units"] == 2
        assert fit["evaluations_with_gradient"] >= 2 * 6
        assert stages["ratio classifier"]["evaluations"] == 0
        assert "pytorch_lora_weights.safetensors" in found["parts"][name]["written"]


def test_the_solver_s_passes_on_the_device_are_those_of_the_host(tmp_path):
    assert run.main(["--tiny", "--device", "cpu", "--output", str(tmp_path), "--only", "solver"]) == 0
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["solver"]["on_the_device"]
    assert part["relative_difference_to_the_host"] < 1e-10
    for name in ("Likelihood", "ReverseKL", "ForwardKL"):
        assert part[name]["status"] == "OPTIMAL"
        assert part[name]["gap"] <= 1e-10
        assert part[name]["kkt_residual"] <= 1e-10


def test_parity_is_that_of_the_types(found):
    """Rounding to p bits at every layer: errors of the size of their eps, far from none and from one."""
    error = found["parts"]["parity"]["relative_error"]
    assert 2**-10 < error["bfloat16"] < 0.2
    assert 2**-13 < error["float16"] < 0.025


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(_job):
        raise RuntimeError("out of everything")

    monkeypatch.setitem(run.PARTS, "parity", broken)
    assert run.main(["--tiny", "--output", str(tmp_path), "--only", "parity", "--only", "solver"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["parity"]["failed"] == "RuntimeError: out of everything"
    assert found["solver"]["gap"] < 1e-9
    assert "out of everything" in capsys.readouterr().err


def test_no_part_begins_when_time_is_up(tmp_path):
    assert run.main(["--tiny", "--output", str(tmp_path), "--only", "solver", "--minutes", "0"]) == 0
    assert "used up" in json.loads((tmp_path / "gpu.json").read_text())["parts"]["solver"]["skipped"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_full_sizes_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["--output", str(tmp_path)])
    assert "no CUDA device was found" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in models.CONFIGS.glob("*.json")))
def test_sizes_are_those_of_the_published_models(name):
    config = models.config_of(name)
    for part, wanted in config["parameters"].items():
        network = models.empty(*config["components"][part])
        assert sum(parameter.numel() for parameter in network.parameters()) == wanted, part
        assert not [key for key, value in network.named_buffers() if value.is_meta]  # they keep their values


def test_values_are_filled_in_from_the_seed_alone():
    kind, settings = (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 8,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        },
    )
    made = []
    for seed in (1, 1, 2):
        network = models.empty(kind, settings)
        models.fill(network, torch.device("cpu"), torch.bfloat16, torch.Generator().manual_seed(seed))
        made.append(network)
    first, second, third = (next(network.parameters()) for network in made)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert not [name for name, parameter in made[0].named_parameters() if parameter.is_meta]


def test_a_tokenizer_of_clip_s_size():
    made = models.tokenizer()
    tokens = made("a tench").input_ids
    assert len(made) == models.TOKENS
    assert made.model_max_length == 77
    assert (tokens[0], tokens[-1]) == (49406, 49407)
    assert made.decode(tokens[1:-1]).strip() == "a tench"


def test_an_evaluation_s_operations_are_counted():
    """A convolution's 2 k k c c' per place, by hand, at one layer: the counter that speeds rest on."""
    layer = torch.nn.Conv2d(3, 5, 3, padding=1)
    with measure.FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(2, 3, 4, 4))
    assert counter.get_total_flops() == 2 * 2 * 16 * 9 * 3 * 5


def test_the_page_says_what_the_file_says():
    found = json.loads((DOCS / "gpu.json").read_text())
    page = (DOCS / "gpu.md").read_text()
    assert put_in(page, found) == page
    assert (NOTHING in page) != bool(found["accelerator"])


def test_a_run_on_a_cpu_makes_no_table(found, tmp_path, capsys):
    assert tables(found) == NOTHING
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(found))
    before = (DOCS / "gpu.json").read_bytes()
    assert table.main([str(path)]) == 2
    assert "measures nothing" in capsys.readouterr().err
    assert (DOCS / "gpu.json").read_bytes() == before


def test_tables_of_a_run(found):
    """The same file as if a GPU had made it: each figure is in its place."""
    some = found | {"accelerator": True, "tiny": False, "device": "Some GPU"}
    text = tables(some)
    assert "On one Some GPU" in text
    stage = some["parts"]["sdxl"]["stages"][0]
    assert f"| {stage['name']} | {stage['seconds']:.1f} | " in text
    skipped = some | {"parts": some["parts"] | {"flux": {"skipped": "no time"}}}
    assert "- flux: skipped, no time" in tables(skipped)
    ceiling = some["parts"]["matrix_products"]["tera_flop_per_second"]["bfloat16"]
    assert math.isfinite(ceiling)
    assert f"| bfloat16 | {ceiling:.0f} |" in text
    solved = some["parts"]["solver"]["on_the_device"]["ForwardKL"]
    assert f"| ForwardKL | {solved['seconds']:.3f} | {solved['gap']:.1e} |" in text
    broken = some | {"parts": some["parts"] | {"sd15": {"failed": "MemoryError: no"}}}
    assert "- sd15: failed, MemoryError: no" in tables(broken)
    assert Path(run.__file__).with_name("run.sh").stat().st_mode & 0o100


def test_weights_that_meet_the_level_already_are_asked_for_more_and_other_errors_are_none_of_it():
    asked, recorder = [], SimpleNamespace(stages=["of the call that was refused"])

    def unlearn(task):
        asked.append([str(level) for level in task.levels])
        if len(asked) == 1:
            raise NothingToDo("level: nothing is to be done")

    task = diffusion.ConceptTask(concepts=["a tench"], problem="reverse-kl", levels=[0.3])
    run._with_something_to_do(unlearn, task, recorder)
    assert asked == [["0.3"], ["1.2x"]]
    assert recorder.stages == []

    def broken(task):
        raise ValueError("rank: 0 given")

    with pytest.raises(ValueError, match="rank: 0 given"):
        run._with_something_to_do(broken, task, recorder)
