"""ResNet-18, for classes of images larger than digits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gam_ray.networks.base import MatchableNetwork, register_network
from gam_ray.networks.chain import ChainNetwork
from gam_ray.networks.imagenet import Normalise, imagenet_state

STAGES = ("layer1", "layer2", "layer3", "layer4")
# Where torchvision's other parts are.
_PLACES = {"conv1": "stem.1", "bn1": "stem.2"}


def _load_imagenet(in_channels: int, classes: int) -> MatchableNetwork:
    network = ResNet18(in_channels, classes)
    network.load_backbone(_download())
    return network


def _download() -> Mapping[str, Tensor]:
    from torchvision.models import ResNet18_Weights

    return imagenet_state(ResNet18_Weights.IMAGENET1K_V1)


@register_network("resnet-18", imagenet=_load_imagenet)
class ResNet18(ChainNetwork):
    """torchvision's ResNet-18 with a head of its own.

    From K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR
    2016.

    ======  ==================================================  ===================
    layer   what it is                                          shape
    ======  ==================================================  ===================
    stem    conv 7×7, BatchNorm, ReLU, max-pool                 [N, 64, H/4, W/4]
    layer1  two residual blocks                                 [N, 64, H/4, W/4]
    layer2  two residual blocks                                 [N, 128, H/8, W/8]
    layer3  two residual blocks                                 [N, 256, H/16, W/16]
    layer4  two residual blocks                                 [N, 512, H/32, W/32]
    pool    mean over all places                                [N, 512]
    fc      matrix to the classes                               [N, classes]
    ======  ==================================================  ===================

    With 3 channels, 11,176,512 parameters before the head. Images in [0, 1] are normalised inside,
    with ImageNet's mean and standard deviation, whatever the weights.

    Args:
        in_channels: Of the images.
        classes: How many logits an image gets.
    """

    name = "resnet-18"
    features = "pool"
    multiple = 32

    def __init__(self, in_channels: int = 3, classes: int = 10) -> None:
        from torchvision.models import resnet18

        whole = resnet18()
        conv = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(
            {
                "stem": nn.Sequential(
                    Normalise(in_channels), conv, whole.bn1, nn.ReLU(), whole.maxpool
                ),
                **{name: whole.get_submodule(name) for name in STAGES},
                "pool": nn.Sequential(whole.avgpool, nn.Flatten()),
                "fc": nn.Linear(512, classes),
            }
        )

    @torch.no_grad()
    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Copy what torchvision's ResNet-18 learned into all layers but the head.

        Args:
            state: Its state. Where images have another number of channels, each gets the mean of
                the first convolution over the colours, times 3 / channels.
        """
        first = state["conv1.weight"]
        channels = self.get_parameter("stem.1.weight").shape[1]
        if channels != first.shape[1]:
            first = first.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
        state = {**state, "conv1.weight": first}
        for name in ("conv1", "bn1", *STAGES):
            prefix = f"{name}."
            self.get_submodule(_PLACES.get(name, name)).load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
