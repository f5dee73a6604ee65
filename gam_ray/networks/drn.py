"""DRN-26, a dilated residual network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from gam_ray.networks.base import register_network
from gam_ray.networks.chain import ChainNetwork, numbered


class DilatedBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm; torchvision's BasicBlock refuses dilation.

    Args:
        in_channels: K of the maps that it takes.
        out_channels: K of the maps that it gives.
        stride: 2 halves the sides.
        dilation: Of both convolutions.
        residual: Whether what comes in is added to what goes out, through a 1×1 convolution
            with BatchNorm where the shapes differ.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.body = nn.Sequential(
            _conv(in_channels, out_channels, 3, stride=stride, dilation=dilation),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            _conv(out_channels, out_channels, 3, dilation=dilation),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential()
        if residual and (stride > 1 or in_channels != out_channels):
            self.shortcut.append(_conv(in_channels, out_channels, 1, stride=stride))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] → [N, out_channels, H / stride, W / stride]."""
        out = self.body(maps)
        return functional.relu(out + self.shortcut(maps) if self.residual else out)


def _conv(
    in_channels: int, out_channels: int, size: int, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Without bias, for BatchNorm follows; drawn as for other residual networks."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        size,
        stride=stride,
        dilation=dilation,
        padding=size // 2 * dilation,
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _pair(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Module:
    return nn.Sequential(
        DilatedBlock(in_channels, out_channels, stride=stride, dilation=dilation),
        DilatedBlock(out_channels, out_channels, dilation=dilation),
    )


@register_network("drn-26")
class DRN26(ChainNetwork):
    """DRN-C-26 with a 1×1 head; logits at stride 8.

    From F. Yu, V. Koltun, T. Funkhouser, "Dilated Residual Networks", CVPR 2017. There, and in
    the domain adaptation papers that took it up, a fixed bilinear upsampling by 8 follows the
    head; here it is left to whoever wants the pixels, so that the last activation is small.

    ======  ======================================================  ====================
    layer   what it is                                              shape
    ======  ======================================================  ====================
    layer1  conv 7×7, BatchNorm, ReLU, a residual block             [N, 16, H, W]
    layer2  a residual block                                        [N, 32, H/2, W/2]
    layer3  two residual blocks                                     [N, 64, H/4, W/4]
    layer4  two residual blocks                                     [N, 128, H/8, W/8]
    layer5  two residual blocks, dilation 2                         [N, 256, H/8, W/8]
    layer6  two residual blocks, dilation 4                         [N, 512, H/8, W/8]
    layer7  a block of dilation 2, not residual against gridding    [N, 512, H/8, W/8]
    layer8  a block, not residual                                   [N, 512, H/8, W/8]
    head    conv 1×1                                                [N, classes, H/8, W/8]
    ======  ======================================================  ====================

    With 3 channels, 20,613,584 parameters before the head, and 513 a class in it. All
    activations but the logits are taken after the ReLU. Weights are random: torchvision has
    none for this network.
    """

    name = "drn-26"
    features = "layer8"
    stride = 8
    multiple = 8

    def __init__(self, in_channels: int = 3, classes: int = 19) -> None:
        stem = [_conv(in_channels, 16, 7), nn.BatchNorm2d(16), nn.ReLU()]
        body = [
            nn.Sequential(*stem, DilatedBlock(16, 16)),
            DilatedBlock(16, 32, stride=2),
            _pair(32, 64, stride=2),
            _pair(64, 128, stride=2),
            _pair(128, 256, dilation=2),
            _pair(256, 512, dilation=4),
            DilatedBlock(512, 512, dilation=2, residual=False),
            DilatedBlock(512, 512, residual=False),
        ]
        super().__init__({**numbered(body), "head": nn.Conv2d(512, classes, 1)})
