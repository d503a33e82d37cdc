"""Attack and fit in turn: what a round does, that every round searches anew, and where there is nothing to attack."""

import numpy as np
import pytest
import torch

import duality as du
from diffusion.evaluation.attacks.base import Victim
from diffusion.evaluation.attacks.soft_prompt import SoftPrompt
from diffusion.evaluation.audit import audit_config
from diffusion.methods.robustness import KeptLaw
from diffusion.pipelines import denoiser_of
from diffusion.runtime.cache import Cache
from diffusion.tasks.config import AuditSettings, FitConfig, Sampling
from diffusion.training.lora import add_lora
from diffusion.training.trainer import Trainer
from diffusion.workflows.robust import Threat, check_robust, harden
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import UNMEASURED, forget, unlearn
from tests.diffusion.workflows.test_concepts import TASK, TINY, images, quiet

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
BRIEF = SoftPrompt(restarts=2, steps=3, batch=2)


class Seeing(SoftPrompt):
    """Remembers whom it attacked."""

    seen: list[Victim] = []  # noqa: RUF012

    def candidates(self, victim):
        self.seen.append(victim)
        return super().candidates(victim)


def student():
    denoiser = denoiser_of(build(families.sd))
    parameters = add_lora(denoiser, 1, 0)
    return denoiser, parameters


def threat(denoiser, name="seven"):
    some = torch.randn((6, *denoiser.sample_shape), generator=torch.Generator().manual_seed(2))
    return Threat(name, lambda latents: np.zeros(len(latents)), (name,), "", some[:3], some[3:])


def test_rounds_search_anew_and_move_the_student_alone():
    denoiser, parameters = student()
    frozen = {name: value.clone() for name, value in denoiser.network.state_dict().items() if "lora" not in name}
    before = [parameter.detach().clone() for parameter in parameters]
    kept = KeptLaw(threat(denoiser).others, ("one", "", "two"))
    attack = Seeing(restarts=2, steps=3, batch=2)
    attack.seen.clear()
    fit = FitConfig(max_train_steps=8, train_batch_size=4, rank=1, robust_rounds=2)
    threats = [threat(denoiser), threat(denoiser, "eight")]
    found = harden(denoiser, threats, kept, fit, Sampling(num_inference_steps=2), attack)
    assert [(each.concept, each.number, each.share) for each in found] == [
        ("seven", 0, 0.0), ("eight", 0, 0.0), ("seven", 1, 0.0), ("eight", 1, 0.0),
    ]  # fmt: skip
    assert len({victim.seed for victim in attack.seen}) == 4
    assert {victim.scale for victim in attack.seen} == {7.5}  # the pipeline's own, greater than an audit's first
    # What measures afterwards starts elsewhere.
    assert audit_config(AuditSettings(attacks=("soft-prompt",)), fit.seed).seed not in {v.seed for v in attack.seen}
    assert any(not torch.equal(one, two) for one, two in zip(before, parameters, strict=True))
    now = denoiser.network.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_the_same_seed_gives_the_same_student():
    ends = []
    for seed in (0, 0, 1):
        denoiser, parameters = student()
        kept = KeptLaw(threat(denoiser).others, ("one", "", "two"))
        fit = FitConfig(max_train_steps=8, train_batch_size=4, rank=1, robust_rounds=1, seed=seed)
        harden(denoiser, [threat(denoiser)], kept, fit, Sampling(num_inference_steps=2), BRIEF)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_rounds_that_are_done_are_not_done_again(tmp_path):
    """A run that ended in its second round goes on there, and ends in the same student; another fit begins anew."""
    ends, searches = [], []

    class Counting(SoftPrompt):
        def candidates(self, victim):
            searches.append(victim.seed)
            return super().candidates(victim)

    for rounds, seed in ((1, 0), (2, 0), (2, 0), (1, 1)):
        denoiser, parameters = student()
        kept = KeptLaw(threat(denoiser).others, ("one", "", "two"))
        fit = FitConfig(max_train_steps=4, train_batch_size=4, rank=1, robust_rounds=rounds, seed=seed)
        cache = Cache(tmp_path, "tiny") if (rounds, seed, len(ends)) != (2, 0, 2) else None
        found = harden(
            denoiser, [threat(denoiser)], kept, fit, Sampling(num_inference_steps=2),
            Counting(restarts=1, steps=2, batch=2), cache=cache,
        )  # fmt: skip
        assert [each.number for each in found] == list(range(rounds))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert len(searches) == 1 + 1 + 2 + 1  # the second run had its first round from the first one
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[3])


def test_adapters_of_a_half_network_move_in_single(monkeypatch):
    denoiser = denoiser_of(build(families.sd).to(torch.bfloat16))
    parameters, kinds = add_lora(denoiser, 1, 0), []
    for parameter in parameters:
        parameter.data = parameter.data.bfloat16()  # as a fit that is done leaves them
    finish = Trainer.finish

    def looked_at(trainer):
        kinds.append({value.dtype for value in (*trainer.parameters, *trainer.average)})
        return finish(trainer)

    monkeypatch.setattr(Trainer, "finish", looked_at)
    kept = KeptLaw(threat(denoiser).others, ("one", "", "two"))
    fit = FitConfig(max_train_steps=2, train_batch_size=4, rank=1, robust_rounds=2)
    harden(denoiser, [threat(denoiser)], kept, fit, Sampling(num_inference_steps=2), BRIEF)
    assert kinds == [{torch.float32}] * 2
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}


def test_unlearning_ends_with_rounds_where_they_are_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("diffusion.workflows.robust.SoftPrompt", lambda: BRIEF)
    changed = {}
    for rounds in (0, 1):
        job = UNMEASURED | {"fit": UNMEASURED["fit"].but(robust_rounds=rounds)}
        pipeline = build(families.sd)
        result = unlearn(pipeline, ["seven"], du.ReverseKL(0.3), **TASK, **job, bar=quiet)
        changed[rounds] = torch.cat([v.flatten() for k, v in pipeline.unet.state_dict().items() if "lora" in k])
        assert result.certificate.fitted_model.fit["robust_rounds"] == rounds
        assert ("round 1 of attacks: 'seven'" in capsys.readouterr().err) is bool(rounds)
    assert not torch.equal(changed[0], changed[1])


def test_without_prompts_there_is_nothing_to_attack(tmp_path):
    fit = FitConfig(robust_rounds=1)
    with pytest.raises(ValueError, match="robust_rounds: soft prompts need a pipeline with prompts"):
        check_robust(denoiser_of(build(families.ddpm)), fit, [("seven",)])
    with pytest.raises(ValueError, match="every concept given by some"):
        check_robust(denoiser_of(build(families.sd)), fit, [("seven",), ()])
    check_robust(denoiser_of(build(families.ddpm)), FitConfig(), [()])
    job = TINY | {"fit": TINY["fit"].but(robust_rounds=1)}
    with pytest.raises(ValueError, match="robust_rounds: forgetting images has no use for it"):
        forget(build(families.ddpm), images(2), levels=1.0, **job)
