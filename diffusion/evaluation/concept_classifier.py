"""How often a concept is in samples, by the base model's ratio classifier, classifiers of images and detectors."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from diffusion.evaluation.measured import CLASSIFIER
from diffusion.evaluation.samples import ImageClassifier
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.detected import detect
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.tasks.detectors import CheckedDetector
from diffusion.training.lora import base_model


class ConceptClassifier:
    """Says how often concept ``index`` is there: the concept's detector and the image classifier where there are such,
    and the base model's classifier."""

    def __init__(
        self,
        denoiser: Denoiser,
        estimate: RatioEstimate,
        image_classifier: ImageClassifier | None,
        index: int,
        detector: CheckedDetector | None = None,
    ) -> None:
        """``denoiser``: the base model's."""
        self.denoiser, self.estimate, self.image_classifier, self.index = denoiser, estimate, image_classifier, index
        self.detector = detector

    @property
    def name(self) -> str:
        """Who says it, as one name of the image classifier's type and of the detector, or of the ratio classifier."""
        kind = type(self.image_classifier)
        own = CLASSIFIER if self.image_classifier is None else f"{kind.__module__}.{kind.__qualname__}"
        return own if self.detector is None else f"{self.detector.name}, {own}"

    def posterior(self, latents: Tensor, seed: int = 0) -> np.ndarray:
        """``Pr(i | x)`` (n,) by the classifier, which reads the base model's features."""
        with base_model(self.denoiser):
            values = classifier_ratios(self.denoiser, self.estimate.classifier, latents, seed=seed)
        return np.asarray(posterior(values, self.estimate.prompts.priors)[:, self.index].numpy())

    def said(self, latents: Tensor) -> dict[str, np.ndarray]:
        """By classifier, (n,) numbers in [0, 1]; the detector's first, then the image classifier's."""
        found: dict[str, np.ndarray] = {}
        if self.detector is not None:
            found[self.detector.name] = detect(self.denoiser.pipeline, latents, [self.detector])[:, 0].numpy()
        if self.image_classifier is not None:
            wanted = self.image_classifier.asked(self.estimate.prompts.concepts[self.index].name)
            images = decode(self.denoiser.pipeline, latents)
            found |= {
                classifier: (labels == wanted).astype(float)
                for classifier, labels in self.image_classifier(images).items()
            }
        return found | {CLASSIFIER: self.posterior(latents)}

    def shows(self, latents: Tensor) -> np.ndarray:
        """(n,): the detector's word where there is one; else the mean of the image classifier's classifiers, or the
        classifier's posterior where there is none either."""
        said = self.said(latents)
        if self.detector is not None:
            return np.asarray(said[self.detector.name])
        chosen = [value for classifier, value in said.items() if classifier != CLASSIFIER] or [said[CLASSIFIER]]
        return np.asarray(np.mean(chosen, axis=0))
