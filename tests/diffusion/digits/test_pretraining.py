"""Parts are trained from nothing by the one trainer, under names and figures of their own."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion.digits.experiments.planted_model import make_stage, seeded, train
from diffusion.digits.experiments.pretraining import Pretraining


def linear(folder, steps, until=None):
    """A linear fit of two modules, whose gradients are far above the norm that they are cut to."""
    modules = {name: torch.nn.Linear(3, 1) for name in ("one", "two")}
    for module in modules.values():
        torch.nn.init.ones_(module.weight)
        torch.nn.init.zeros_(module.bias)

    def loss(step, generator, part=None):
        x = torch.randn(8, 3, generator=generator)
        return sum(module(x).square().mean() for module in modules.values())

    run = Pretraining(folder, modules, loss, steps, 1e-2, 5)
    run.run(until)
    return run


def by_hand(steps):
    """The same in plain torch: AdamW with decay, warmed up over 200 steps, then a cosine; a mean with decay .999."""
    weights = [torch.tensor([[1.0, 1, 1]]), torch.zeros(1)] * 2
    weights = [value.clone().requires_grad_() for value in weights]
    mean = [value.detach().clone() for value in weights]
    optimizer = torch.optim.AdamW(weights, weight_decay=1e-4)
    for step in range(steps):
        rate = 1e-2 * min(1, (step + 1) / 200) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        optimizer.param_groups[0]["lr"] = rate
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(5 * 1_000_003 + step))
        optimizer.zero_grad()
        sum(torch.nn.functional.linear(x, *weights[k : k + 2]).square().mean() for k in (0, 2)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        mean = [decay * old + (1 - decay) * new.detach() for old, new in zip(mean, weights, strict=True)]
    return weights, mean


def test_it_is_adamw_with_the_figures_of_a_run_from_nothing(tmp_path):
    run = linear(tmp_path, 300)
    weights, mean = by_hand(300)
    # 300 steps in float32, each of which rounds once.
    for found, wanted in zip([*run.parameters, *run.average], [*weights, *mean], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=300 * torch.finfo(torch.float32).eps)


def test_checkpoints_have_the_names_of_modules_and_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = linear(tmp_path / "whole", 12)
    linear(tmp_path / "parts", 12, until=5).save()
    with safe_open(tmp_path / "parts" / "state.safetensors", "pt") as file:
        names = {f"{module}.{kind}" for module in ("one", "two") for kind in ("weight", "bias")}
        kinds = ("model", "average", "exp_avg", "exp_avg_sq")
        assert set(file.keys()) == {f"{kind}.{name}" for kind in kinds for name in names}
        assert file.metadata()["done"] == "5"
        assert json.loads(file.metadata()["losses"]) == pytest.approx(whole.losses[:5], abs=5e-6)
    parts = linear(tmp_path / "parts", 12)
    assert len(parts.losses) == 12
    for found, wanted in zip([*parts.parameters, *parts.average], [*whole.parameters, *whole.average], strict=True):
        assert torch.equal(found, wanted)


def test_a_file_of_another_network_is_refused(tmp_path):
    linear(tmp_path, 12, until=2).save()
    path = tmp_path / "state.safetensors"
    tensors = load_file(path)
    tensors["model.one.weight"] = torch.zeros(2, 7)
    save_file(tensors, path, metadata={"done": "2", "losses": "[]"})
    with pytest.raises(RuntimeError, match="size of tensor"):
        linear(tmp_path, 12)


def test_figures_are_those_of_the_loop_that_it_had(tmp_path):
    """Losses of six steps of the planted study's model, seed 3, from when it had a training loop of its own."""
    pipeline = seeded(3)
    train(pipeline, make_stage().digits, tmp_path, steps=6, rate=2e-3, seed=3)
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        losses = json.loads(file.metadata()["losses"])
    # Kept to five digits; float32 sums of some 1,000 terms on another processor move less than these.
    assert losses == pytest.approx([0.96215, 0.96434, 0.96442, 0.94444, 0.92537, 0.93827], abs=1.1e-4)
    assert not pipeline.unet.training
