"""General activation matching (Huang, Huang and Krähenbühl, ECCV 2018) in plain torch."""

from gam_ray.adaptation.adam import Adam
from gam_ray.adaptation.batch_norm import (
    SharedBatchNorm,
    adapt_batch_norm,
    share_batch_norm,
)
from gam_ray.adaptation.collectives import (
    broadcast_object,
    gather_rows,
    rank,
    shard,
    sum_over_workers,
    world_size,
)
from gam_ray.adaptation.discriminators import Discriminators, build_discriminator
from gam_ray.adaptation.modes import evaluating, in_precision
from gam_ray.adaptation.moments import (
    ChannelMatching,
    Moments,
    layer_moments,
    layers_to_match,
    match_network,
    remeasure,
    restore_matching,
    train_mode,
)
from gam_ray.adaptation.objectives import (
    ADVERSARIAL_LOSSES,
    Drift,
    GANLoss,
    InvertedLabelsLoss,
    LeastSquaresLoss,
)
from gam_ray.adaptation.step import GeneralMatching, HealthMeter, Players, loss_ratios
from gam_ray.adaptation.streams import stream
from gam_ray.adaptation.taps import TappedNetwork, Taps, choose_layers

__all__ = [
    "ADVERSARIAL_LOSSES",
    "Adam",
    "ChannelMatching",
    "Discriminators",
    "Drift",
    "GANLoss",
    "GeneralMatching",
    "HealthMeter",
    "InvertedLabelsLoss",
    "LeastSquaresLoss",
    "Moments",
    "Players",
    "SharedBatchNorm",
    "TappedNetwork",
    "Taps",
    "adapt_batch_norm",
    "broadcast_object",
    "build_discriminator",
    "choose_layers",
    "evaluating",
    "gather_rows",
    "in_precision",
    "layer_moments",
    "layers_to_match",
    "loss_ratios",
    "match_network",
    "rank",
    "remeasure",
    "restore_matching",
    "shard",
    "share_batch_norm",
    "stream",
    "sum_over_workers",
    "train_mode",
    "world_size",
]
