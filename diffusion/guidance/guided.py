r"""Sampling the optimal target without training: the guidance rule of a solution, inside a stock sampler.

At a noised state every problem is negative guidance, ::

    output = q(x_t | c) + sum_i k_i(rho_t) (q(x_t) - q(x_t | u_i)),        k = solution.guidance(rho_t),

with rho_t from a ratio classifier on the activations of the same forward pass. Differences are taken on the raw output,
which is affine in the score (:mod:`diffusion.pipelines.schedules`). Prompts that ask for a concept fall back to the
anchor, known by their text (:mod:`diffusion.guidance.prompt_exchange`); negative prompts, and embeddings that are
handed over ready-made, stay what they are.

A network without prompts, or a concept that none asks for, has no q(x_t | u_i); there the difference of the scores is
that of the classifier, ::

    score_q - score_i = - grad rho_i,t(x_t),        eps = eps_q + noise sum_i k_i grad rho_i,t,

through the network's own features, at the cost of one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from diffusion.guidance.prompt_exchange import ConceptRequests, exchanged
from diffusion.pipelines import Condition, Denoiser, repeat, rows
from diffusion.ratios.classifier import Bottleneck, RatioClassifier, log_snr, pooled
from diffusion.tasks.concepts import TaskPrompts

# Strengths: rho (n, m) at noise level t to k (n, m). `Solution.guidance` is one; a constant is another (ESD's rule).
Strength = Callable[[Tensor], Tensor]

# Below this strength the correction is left out, which saves the concept's network call: it is a thousandth of one
# unit of guidance, far under the network's own error.
NEGLIGIBLE = 1e-3

# Strengths are cut here: a classifier's error far outside its training would otherwise decide the whole prediction.
LIMIT = 20.0


@dataclass
class Trace:
    """What guidance did, step by step: noise level, mean strength per concept, share of rows that were corrected."""

    steps: list[tuple[int, tuple[float, ...], float]] = field(default_factory=list)


class Guided:
    """``with Guided(denoiser, prompts, classifier, strength):`` every call of the pipeline samples the guided law.

    Works with any sampler and with classifier-free guidance: the network's output is corrected row by row, and the same
    correction on both halves of a classifier-free pair passes through unchanged. ``prompts`` may be left out (None)
    where the pipeline takes none.

    Where there is no text to know a prompt by, since ``denoiser.pipeline`` encodes none (a guider in a modular pipeline
    sees the network's inputs alone), rows whose embeddings are those of a concept's prompt fall back to the anchor
    while ``by_embeddings`` is true: whoever enters is to say so of the branch with the prompt, and not of the negative
    one.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: TaskPrompts | None,
        classifier: RatioClassifier,
        strength: Strength,
        limit: float = LIMIT,
    ) -> None:
        self.denoiser, self.classifier, self.strength, self.limit = denoiser, classifier, strength, limit
        self.trace = Trace()
        self.plain: Tensor | None = None  # the last call's output before the correction, and its log ratios
        self.rho: Tensor | None = None
        self._inside = False
        self._empty = self._words([""])
        self._named = False  # every concept has a prompt that asks for it
        paraphrases: list[str] = []
        self._exchange: Callable[[str], str] | None = None
        self.by_embeddings = not hasattr(denoiser.pipeline, "encode_prompt")
        if denoiser.prompt_inputs:
            if prompts is None:
                raise ValueError("prompts must be given for a pipeline that takes prompts, got None")
            paraphrases = [paraphrase for concept in prompts.concepts for paraphrase in concept.prompts]
            self._named = all(concept.prompts for concept in prompts.concepts)
            self._anchor = self._words([prompts.anchor])
            if self._named:
                self._concepts = self._words([concept.name for concept in prompts.concepts])
        self._asking = self._words(paraphrases) if paraphrases and self.by_embeddings else None
        if paraphrases and prompts is not None and not self.by_embeddings:
            asking, anchor = ConceptRequests(denoiser.pipeline, prompts), prompts.anchor
            self._exchange = lambda text: anchor if not self._inside and asking(text) else text

    def _words(self, prompts: list[str]) -> Condition:
        """The parts of a condition that depend on the prompt; the others stay those of the running call."""
        condition = self.denoiser.condition(prompts)
        return {name: condition[name] for name in self.denoiser.prompt_inputs}

    def __enter__(self) -> Guided:
        self._caught = Bottleneck(self.denoiser)
        self._caught.__enter__()
        network = self.denoiser.network
        correct = self._correct if self._named else self._correct_by_gradient
        self._handles: list[Any] = [network.register_forward_hook(self._outside(correct), with_kwargs=True)]
        self._texts = ExitStack()
        if self._exchange is not None:
            self._texts.enter_context(exchanged(self.denoiser.pipeline, self._exchange))
        if self._asking is not None:
            fall_back = self._outside(self._fall_back)
            self._handles.append(network.register_forward_pre_hook(fall_back, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._texts.close()
        self._caught.__exit__()
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def off(self) -> Iterator[None]:
        """The unguided network, inside the context of guidance."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before

    def _outside(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, for the sampler's calls only: not for those that the hooks make."""

        def guarded(_module: Any, *arguments: Any) -> Any:
            if self._inside:
                return None
            self._inside = True
            try:
                return hook(*arguments)
            finally:
                self._inside = False

        return guarded

    def _same(self, condition: Condition, estimate: Condition) -> Tensor:
        """(n, k): whether row i of a condition is known row j. Equal prompts have bit-equal embeddings."""
        result = None
        for name, value in estimate.items():
            row = condition[name].flatten(1)[:, None] - value.flatten(1)[None]
            equal = row.abs().amax(-1) <= 1e-5 * value.abs().amax()  # rows of different batches may differ by rounding
            result = equal if result is None else result & equal
        return cast(Tensor, result)

    def _fall_back(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.by_embeddings:
            return None
        _, _, condition = self.denoiser.read(args, kwargs)
        asking = self._same(condition, cast(Condition, self._asking)).any(1)
        if not bool(asking.any()):
            return None
        changed = {}
        for name, value in self._anchor.items():
            changed[name] = condition[name].clone()
            changed[name][asking] = value[0].to(condition[name].dtype)
        return (), self.denoiser.reworded(args, kwargs, changed)

    def _rho(self, features: Tensor, t: Tensor) -> Tensor:
        device = self.classifier.center.device
        return cast(Tensor, self.classifier(features.to(device), log_snr(self.denoiser, t).to(device)))

    def _strength(self, rho: Tensor, t: Tensor, like: Tensor) -> Tensor:
        k = self.strength(rho.detach()).clamp(0, self.limit)
        corrected_share = float((k > NEGLIGIBLE).any(1).float().mean())
        self.trace.steps.append((int(t[0]), tuple(k.mean(0).tolist()), corrected_share))
        return k.to(like)

    @torch.no_grad()
    def _correct(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        denoiser = self.denoiser
        x, timestep, condition = denoiser.read(args, kwargs)
        t, result = denoiser.level(timestep), _tensor_of(output)[:, : x.shape[1]]
        free, inner = result, cast(Tensor, self._caught.last)
        if not bool(self._same(condition, self._empty).all()):
            # other prompts: the classifier and the difference need the empty prompt's word as well
            free = denoiser.call(x, timestep, {**condition, **repeat(self._empty, len(x))})
            inner = cast(Tensor, self._caught.last)
        self.plain, self.rho = result, self._rho(pooled(inner, free), t)
        k = self._strength(self.rho, t, result)
        corrected = result.clone()
        for index in range(k.shape[1]):
            active = (k[:, index] > NEGLIGIBLE).nonzero()[:, 0]
            if len(active):
                concept = repeat(rows(self._concepts, slice(index, index + 1)), len(active))
                under = {**rows(condition, active), **concept}
                away = free[active] - denoiser.call(x[active], timestep[active], under)
                corrected[active] += k[active, index].view(-1, *(1,) * (x.ndim - 1)) * away
        return _with_tensor(output, corrected)

    def _correct_by_gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        denoiser = self.denoiser
        x, timestep, condition = denoiser.read(args, kwargs)
        t, result = denoiser.level(timestep), _tensor_of(output).detach()[:, : x.shape[1]]
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            free = denoiser.call(state, timestep, {**condition, **repeat(self._empty, len(x))})
            rho = self._rho(pooled(cast(Tensor, self._caught.last), free), t)
            k = self._strength(rho, t, result)
            (gradient,) = torch.autograd.grad((rho * k.to(rho)).sum(), state)  # rows do not mix: one gradient each
        _, noise = denoiser.schedule(t)
        # Where nothing of the image is left the slope has no bound, and rho no gradient.
        slope = denoiser.slope(t).clamp(-1e3, 1e3)
        return _with_tensor(output, result + (slope * noise).to(result) * gradient)


def _tensor_of(output: Any) -> Tensor:
    return cast(Tensor, output[0] if isinstance(output, tuple) else output.sample)


def _with_tensor(output: Any, value: Tensor) -> Any:
    rest = _tensor_of(output)[:, value.shape[1] :]  # a variance that is predicted beside it stays
    if rest.shape[1]:
        value = torch.cat([value, rest], 1)
    return (value, *output[1:]) if isinstance(output, tuple) else type(output)(sample=value)


def constant(strength: float) -> Strength:
    """``k`` the same everywhere: the rule of ESD and of plain negative guidance, for comparison."""
    return lambda rho: torch.full_like(rho, strength)
