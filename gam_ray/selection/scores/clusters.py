"""Scores of how far the predicted classes follow the clusters that the features fall into.

k-means over at most 1,000 rows, one cluster a class, once for both scores: some tenths of a second.
"""

from __future__ import annotations

from gam_ray.selection.evidence import Evidence
from gam_ray.selection.scores.base import Score, register_score


@register_score
class ClassAMI(Score):
    """Adjusted mutual information of predicted classes and k-means clusters. In [−1, 1].

    0 is chance, 1 is equality. Clusters say how the target falls apart by itself; a model whose
    classes follow them is likelier right. With fewer rows than classes, or one class predicted
    everywhere, 0. Musgrave, Belongie and Lim, 2022; the AMI is scikit-learn's.
    """

    name, lowest, highest = "class_ami", -1.0, 1.0

    def __call__(self, evidence: Evidence) -> float:
        """From some of the target's features and predictions."""
        from sklearn.metrics import adjusted_mutual_info_score

        if evidence.clusters is None:
            return 0.0
        predicted = evidence.few.classes.cpu().numpy()
        return float(adjusted_mutual_info_score(evidence.clusters, predicted))


@register_score
class VMeasure(Score):
    """Harmonic mean of homogeneity and completeness of classes and clusters. In [0, 1].

    As `ClassAMI`, but not adjusted for chance. Rosenberg and Hirschberg, 2007; the measure is
    scikit-learn's.
    """

    name, lowest, highest = "v_measure", 0.0, 1.0

    def __call__(self, evidence: Evidence) -> float:
        """From some of the target's features and predictions."""
        from sklearn.metrics import v_measure_score

        if evidence.clusters is None:
            return 0.0
        return float(v_measure_score(evidence.clusters, evidence.few.classes.cpu().numpy()))
