"""General activation matching (Huang, Huang and Krähenbühl, ECCV 2018) in plain torch."""

from gam_ray.adaptation.collectives import (
    broadcast_object,
    gather_rows,
    rank,
    shard,
    sum_over_workers,
    world_size,
)
from gam_ray.adaptation.discriminators import Discriminators, build_discriminator
from gam_ray.adaptation.moments import (
    ChannelMatching,
    Moments,
    layer_moments,
    match_network,
    remeasure,
    restore_matching,
)
from gam_ray.adaptation.objectives import GANLoss, LeastSquaresLoss, drift
from gam_ray.adaptation.step import GeneralMatching, HealthMeter, Players
from gam_ray.adaptation.taps import TappedNetwork, Taps, choose_layers

__all__ = [
    "ChannelMatching",
    "Discriminators",
    "GANLoss",
    "GeneralMatching",
    "HealthMeter",
    "LeastSquaresLoss",
    "Moments",
    "Players",
    "TappedNetwork",
    "Taps",
    "broadcast_object",
    "build_discriminator",
    "choose_layers",
    "drift",
    "gather_rows",
    "layer_moments",
    "match_network",
    "rank",
    "remeasure",
    "restore_matching",
    "shard",
    "sum_over_workers",
    "world_size",
]
