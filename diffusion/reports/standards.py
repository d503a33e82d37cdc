"""What is asked of each part of a run before it is called certified."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Standards:
    """What is asked of each part. All are conventions of this project; change them in code, and the certificate says
    which were used."""

    # of the solution
    gap: float = 1e-8  # relative duality gap
    kkt: float = 1e-6  # KKT residual, in units of the levels
    effective: float = 100.0  # effective sample size
    # of the ratios
    auc: float = 0.98  # of the classifier on held-out labelled samples
    ece: float = 0.05  # likewise
    coverage: float = 0.25  # |mean posterior / prior - 1|, beyond twice its standard error
    agreement: float = 0.9  # AUC of the untrained ELBO difference against the classifier
    # of the fitted model; its levels are asked for by the user
    cost_ratio: float = 3.0  # cost of the fitted network over the target's
    retained: float = 0.05  # what the prompt accuracy of all retained prompts together may lose, at most
    retained_each: float = 0.2  # likewise each by itself: fewer samples, wider bounds
    # of images that are to be forgotten
    share: float = 0.5  # of a share that was counted among samples, its standard error may be this part

    def data(self) -> dict[str, float]:
        return asdict(self)
