"""Label-free scores of one model. A file a family; importing this package registers them all.

The score of a whole crowd of models is `gam_ray.selection.consensus`.
"""

from gam_ray.selection.scores.base import (
    Score,
    all_scores,
    known_scores,
    register_score,
    score_by_name,
)
from gam_ray.selection.scores.certainty import (
    ClassCorrelation,
    Entropy,
    InformationMaximisation,
    NuclearNorm,
    SoftNeighbourhoodDensity,
)
from gam_ray.selection.scores.clusters import ClassAMI, VMeasure
from gam_ray.selection.scores.mixed import MixVal
from gam_ray.selection.scores.source import DEVRisk, ImportanceWeightedRisk, SourceAccuracy
from gam_ray.selection.scores.transfer import TransferScore

__all__ = [
    "ClassAMI",
    "ClassCorrelation",
    "DEVRisk",
    "Entropy",
    "ImportanceWeightedRisk",
    "InformationMaximisation",
    "MixVal",
    "NuclearNorm",
    "Score",
    "SoftNeighbourhoodDensity",
    "SourceAccuracy",
    "TransferScore",
    "VMeasure",
    "all_scores",
    "known_scores",
    "register_score",
    "score_by_name",
]
