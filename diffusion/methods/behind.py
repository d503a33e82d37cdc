r"""The samples that may be behind a noised state, all of them: a fit's gradient without the noise of having drawn one.

A step noises samples x_i, chosen with shares s_i, to `x_t = a x_i + b eps`. Which sample it was, the state does not
say; given it, sample j has probability ::

    pi_j(x_t) = s_j N(x_t; a x_j, b^2) / sum_k s_k N(x_t; a x_k, b^2).

A loss that is a mean over the chosen samples has the same expectation when each state's term is replaced by its mean
under pi (the tower property), and no greater variance (Rao-Blackwell); what is fitted is the same, bit for rounding.
At low noise pi is the sample itself. At high noise, where an image is decided, it is spread over many, and the one that
was drawn says next to nothing: there the noise of a step's gradient falls by about their number.

The sums are over the prompt's own samples: x_0's law is that of a prompt.

Source: Rao, Information and accuracy attainable in the estimation of statistical parameters (1945); Blackwell,
Conditional expectation and unbiased sequential estimation (1947). Denoisers of finitely many samples in closed form:
Karras et al., Elucidating the design space of diffusion-based generative models (NeurIPS 2022), appendix B.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser


def posterior(x: Tensor, samples: Tensor, scales: tuple[Tensor, Tensor], log_shares: Tensor) -> Tensor:
    """``pi`` (n, N), double: which of the samples (N, ...) may be behind states x (n, ...).

    Args:
        scales: signal a and noise b > 0, (n,) each.
        log_shares: log s_j (N,) or (n, N), unnormalised; -inf where a sample cannot be behind a state.
    """
    signal, noise = (value.double().flatten()[:, None] for value in scales)
    flat, given = samples.flatten(1), x.flatten(1)
    # |x|^2 is common to a row. Products are in the samples' type: what they lose is relative to distances between
    # samples, which decide where they are a few nats.
    size = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)  # without a copy of the samples in double
    apart = signal * (given @ flat.T).double() - 0.5 * (signal * size).square()
    return (apart / noise.square() + log_shares).softmax(1)


@dataclass(frozen=True)
class Behind:
    """Samples (N, ...) of prompts (N,), and how often each is chosen, ``shares`` (N,); all on the CPU."""

    denoiser: Denoiser
    samples: Tensor
    prompts: Tensor
    shares: Tensor

    def __call__(self, x: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
        """``pi`` (n, N) at states x (n, ...) of levels t (n,), of prompts (n,)."""
        allowed = torch.where(prompts[:, None] == self.prompts, self.shares.double().log(), -torch.inf)
        signal, noise = self.denoiser.schedule(t)
        return posterior(x.cpu().to(self.samples), self.samples, (signal.cpu(), noise.cpu()), allowed)

    def targets(self, x: Tensor, t: Tensor, factors: Tensor) -> Tensor:
        """``sum_j c_j y_j`` (n, ...) for factors c (n, N): y_j the network's target were sample j behind x.

        Targets are linear in x_0 and eps, so it is the target of the two sums.
        """
        signal, noise = (value.cpu().double() for value in self.denoiser.schedule(t))
        shape = (-1, *(1,) * (x.ndim - 1))
        total = factors.sum(1).view(shape)
        # In double: at low noise eps_j is a small difference over a small number.
        x0 = (factors.to(self.samples) @ self.samples.flatten(1)).view(x.shape).double()
        eps = (total * x.cpu().double() - signal * x0) / noise
        return self.denoiser.target(x0.to(x), eps.to(x), t)
