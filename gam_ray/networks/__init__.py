"""Networks that can be adapted; each names its layers that can be matched."""

from gam_ray.networks.base import (
    MatchableNetwork,
    NetworkWeights,
    WeightsUnavailableError,
    build_network,
    network_names,
    register_network,
)
from gam_ray.networks.chain import ChainNetwork
from gam_ray.networks.drn import DRN26
from gam_ray.networks.erfnet import ERFNet, ERFNetEncoder
from gam_ray.networks.fcn8s import VGG16FCN8s
from gam_ray.networks.lenet import LeNet, LeNetBN
from gam_ray.networks.own import OwnNetwork
from gam_ray.networks.resnet import ResNet18

__all__ = [
    "DRN26",
    "ChainNetwork",
    "ERFNet",
    "ERFNetEncoder",
    "LeNet",
    "LeNetBN",
    "MatchableNetwork",
    "NetworkWeights",
    "OwnNetwork",
    "ResNet18",
    "VGG16FCN8s",
    "WeightsUnavailableError",
    "build_network",
    "network_names",
    "register_network",
]
