"""Networks that can be adapted; each names its layers that can be matched."""

from gam_ray.networks.base import (
    MatchableNetwork,
    NetworkWeights,
    WeightsUnavailableError,
    build_network,
    network_names,
    register_network,
)
from gam_ray.networks.erfnet import ERFNet, ERFNetEncoder
from gam_ray.networks.lenet import LeNet

__all__ = [
    "ERFNet",
    "ERFNetEncoder",
    "LeNet",
    "MatchableNetwork",
    "NetworkWeights",
    "WeightsUnavailableError",
    "build_network",
    "network_names",
    "register_network",
]
