"""VGG16-FCN8s: VGG16 made fully convolutional, with skips from pool3 and pool4."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gam_ray.networks.base import MatchableNetwork, register_network, require_multiples
from gam_ray.networks.imagenet import Normalise, imagenet_state

# Channels of each convolution of VGG16, stage by stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
BACKBONE = ("pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc7")


class _Scores(nn.Module):
    """Scores of fc7, upsampled and added to those of pool4, and these to those of pool3."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc7 = nn.Sequential(nn.Dropout(), nn.Conv2d(width, classes, 1))
        self.pool4 = nn.Conv2d(512, classes, 1)
        self.pool3 = nn.Conv2d(256, classes, 1)
        self.upscore2 = bilinear_upsampling(classes)
        self.upscore_pool4 = bilinear_upsampling(classes)
        for skip in (self.pool4, self.pool3):
            nn.init.zeros_(skip.weight)
            assert skip.bias is not None
            nn.init.zeros_(skip.bias)

    def forward(self, fc7: Tensor, pool4: Tensor, pool3: Tensor) -> Tensor:
        """[N, classes, H/8, W/8] from maps at H/32, H/16 and H/8."""
        scores = self.upscore2(self.fc7(fc7)) + self.pool4(pool4)
        fused: Tensor = self.upscore_pool4(scores) + self.pool3(pool3)
        return fused


def bilinear_upsampling(channels: int) -> nn.ConvTranspose2d:
    """A transposed convolution [N, channels, H, W] → [N, channels, 2H, 2W] to be trained.

    It begins as bilinear interpolation, channel by channel; at the border it fades to zero.
    """
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = torch.outer(taps, taps)
    return layer


def _load_imagenet(in_channels: int, classes: int) -> MatchableNetwork:
    if in_channels != 3:
        raise ValueError(
            f"vgg16-fcn8s has imagenet weights for images of 3 channels, but got {in_channels}; "
            "convert the images to colour, or take weights='random'"
        )
    state = _download()
    network = VGG16FCN8s(in_channels, classes)
    network.load_vgg16(state)
    return network


def _download() -> Mapping[str, Tensor]:
    from torchvision.models import VGG16_Weights

    return imagenet_state(VGG16_Weights.IMAGENET1K_V1)


@register_network("vgg16-fcn8s", imagenet=_load_imagenet)
class VGG16FCN8s(MatchableNetwork):
    """VGG16 with fc6 and fc7 as convolutions and skips from pool4 and pool3; full resolution.

    From J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic
    Segmentation", CVPR 2015; VGG16 from K. Simonyan, A. Zisserman, ICLR 2015.

    =============  ===============================================  =======================
    layer          what it is                                       shape
    =============  ===============================================  =======================
    pool1          two convolutions 3×3, each with ReLU; max-pool   [N, 64, H/2, W/2]
    pool2          two of them; max-pool                            [N, 128, H/4, W/4]
    pool3          three of them; max-pool                          [N, 256, H/8, W/8]
    pool4          three of them; max-pool                          [N, 512, H/16, W/16]
    pool5          three of them; max-pool                          [N, 512, H/32, W/32]
    fc6            convolution 7×7, ReLU                            [N, width, H/32, W/32]
    fc7            dropout, convolution 1×1, ReLU                   [N, width, H/32, W/32]
    score          dropout, scores of fc7, pool4 and pool3, fused   [N, classes, H/8, W/8]
    upscore8       bilinear interpolation                           [N, classes, H, W]
    =============  ===============================================  =======================

    As in the paper: dropout of a half behind fc6 and fc7; the two upsamplings by 2 begin as
    bilinear interpolation and are trained, the last one by 8 stays fixed; the scores of pool4
    and pool3 begin at zero, so that training starts from FCN-32s.

    Otherwise than there: fc6 pads its maps by 3, so that all maps fit upon each other without
    the 100 pixels of padding around the image and without cropping; for that the sides of
    images are multiples of 32. Dropout belongs to the layer that follows it, so that the
    activations themselves are free of it. The last upsampling does not fade at the border.

    With 3 channels and a width of 4096, 134,260,544 parameters up to fc7. Images in [0, 1] are
    normalised inside, with ImageNet's mean and standard deviation, whatever the weights.

    Args:
        in_channels: Of the images.
        classes: How many logits a pixel gets.
        width: Channels of fc6 and fc7; ImageNet's weights fit 4096 only.
    """

    features = "fc7"
    stride = 1
    multiple = 32

    def __init__(self, in_channels: int = 3, classes: int = 19, *, width: int = 4096) -> None:
        super().__init__()
        self.normalise = Normalise(in_channels)
        channels = in_channels
        for number, stage in enumerate(STAGES, start=1):
            self.add_module(f"pool{number}", _stage(channels, stage))
            channels = stage[-1]
        self.fc6 = nn.Sequential(_fully_connected(channels, width, 7), nn.ReLU())
        self.fc7 = nn.Sequential(nn.Dropout(), _fully_connected(width, width, 1), nn.ReLU())
        self.score = _Scores(width, classes)
        self.upscore8 = nn.Upsample(scale_factor=8, mode="bilinear")

    @property
    def layers(self) -> dict[str, nn.Module]:
        """pool1 to pool5, fc6, fc7, score and upscore8."""
        return {name: self.get_submodule(name) for name in (*BACKBONE, "score", "upscore8")}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes, H, W] of images [N, in_channels, H, W].

        Raises:
            ValueError: If H or W is not a multiple of 32.
        """
        require_multiples("vgg16-fcn8s", images, self.multiple)
        maps = self.normalise(images)
        seen = {}
        for name in BACKBONE:
            maps = seen[name] = self.get_submodule(name)(maps)
        logits: Tensor = self.upscore8(self.score(seen["fc7"], seen["pool4"], seen["pool3"]))
        return logits

    @torch.no_grad()
    def load_vgg16(self, state: Mapping[str, Tensor]) -> None:
        """Copy what torchvision's VGG16 learned into all layers up to fc7.

        Args:
            state: Its state, of which the last matrix (to ImageNet's classes) is left out.
        """
        parameters = [
            parameter for name in BACKBONE for parameter in self.get_submodule(name).parameters()
        ]
        values = [value for name, value in state.items() if not name.startswith("classifier.6.")]
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value.view_as(parameter))


def _stage(in_channels: int, widths: tuple[int, ...]) -> nn.Module:
    """Drawn as torchvision draws its VGG16."""
    parts: list[nn.Module] = []
    for before, width in zip((in_channels, *widths), widths, strict=False):
        conv = nn.Conv2d(before, width, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        parts += [conv, nn.ReLU()]
    return nn.Sequential(*parts, nn.MaxPool2d(2))


def _fully_connected(in_channels: int, width: int, size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, width, size, padding=size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
