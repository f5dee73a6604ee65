"""A score of predictions on mixed images."""

from __future__ import annotations

from torch import Tensor

from gam_ray.selection.evidence import Evidence
from gam_ray.selection.scores.base import Score, register_score


@register_score
class MixVal(Score):
    """Accuracy on mixed target pairs against the pseudo-label of the part that prevails. In [0, 1].

    The mean of two: over pairs of one pseudo-label, which probes whether classes lie close
    together, and over pairs of two, which probes the boundaries between them. Where there is
    no pair of a kind, that half counts 0: a collapsed network has pairs of one class alone, and
    would be right of all. Hu, Liang, Liew et al., NeurIPS 2023, who average the ranks of the two
    over models, which one model does not have. Costs three passes over at most 1,000 images.
    """

    name, lowest, highest = "mixval", 0.0, 1.0

    def __call__(self, evidence: Evidence) -> float | None:
        """From predictions on mixed pairs."""
        if evidence.mixed is None:
            return None
        image, partner, mixture = (
            each.argmax(1)
            for each in (evidence.mixed.image, evidence.mixed.partner, evidence.mixed.mixture)
        )
        hits, alike = mixture == image, image == partner
        return (_share(hits[alike]) + _share(hits[~alike])) / 2


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 0.0
