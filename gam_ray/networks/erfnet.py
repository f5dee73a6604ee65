"""ERFNet: its encoder with a head of its own, and the full network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_ray.networks.base import register_network
from gam_ray.networks.chain import ChainNetwork, numbered

BATCH_NORM_EPS = 1e-3


class Downsampler(nn.Module):
    """[N, K, H, W] → [N, out_channels, H/2, W/2]: conv 3×3 beside max-pool, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of half the sides."""
        return functional.relu(self.norm(torch.cat([self.conv(maps), self.pool(maps)], 1)))


class ColumnConv(nn.Conv2d):
    """A 3×1 convolution with rows `dilation` apart, padded to keep the size.

    On a GPU it is done as one without dilation, which is the same and copies nothing: for images
    whose height is a multiple d·h, [N, K, d·h, W] is read as [N, K, h, d·W], where those rows are
    neighbours. cuDNN had kernels for it that took a hundred times as long in bfloat16.
    """

    def __init__(self, channels: int, *, dilation: int) -> None:
        d = dilation
        super().__init__(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Maps of the same shape."""
        apart = int(self.dilation[0])
        if apart > 1 and input.is_cuda and input.shape[2] % apart == 0:
            return self.wide(input)
        return super().forward(input)

    def wide(self, maps: Tensor) -> Tensor:
        """The same without dilation, for maps whose height is a multiple of it."""
        apart, width = int(self.dilation[0]), maps.shape[3]
        rows = torch.unflatten(maps, 2, (-1, apart)).flatten(3, 4)
        done = functional.conv2d(rows, self.weight, self.bias, padding=(1, 0))
        return torch.unflatten(done, 3, (apart, width)).flatten(2, 3)


class NonBottleneck1d(nn.Module):
    """A residual block of two 3×3 convolutions, each factorised into 3×1 and 1×3.

    The second pair is dilated. ReLU after each convolution, BatchNorm after each pair; whole
    channels of the residual are dropped in training.
    """

    def __init__(self, channels: int, *, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        d = dilation
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS),
            nn.ReLU(),
            ColumnConv(channels, dilation=d),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS),
            nn.Dropout2d(dropout),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, channels, H, W] of the same shape."""
        return functional.relu(maps + self.residual(maps))


def _upsampler(in_channels: int, out_channels: int) -> nn.Module:
    """[N, K, H, W] → [N, out_channels, 2H, 2W]."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS),
        nn.ReLU(),
    )


def _encoder(in_channels: int) -> list[nn.Module]:
    return [
        Downsampler(in_channels, 16),
        Downsampler(16, 64),
        *(NonBottleneck1d(64, dropout=0.03) for _ in range(5)),
        Downsampler(64, 128),
        *(NonBottleneck1d(128, dropout=0.3, dilation=d) for d in (2, 4, 8, 16) * 2),
    ]


def _decoder(classes: int) -> list[nn.Module]:
    return [
        _upsampler(128, 64),
        *(NonBottleneck1d(64) for _ in range(2)),
        _upsampler(64, 16),
        *(NonBottleneck1d(16) for _ in range(2)),
        nn.ConvTranspose2d(16, classes, 2, stride=2),
    ]


@register_network("erfnet-encoder")
class ERFNetEncoder(ChainNetwork):
    """ERFNet's encoder with the 1×1 head that it is trained with first; logits at stride 8.

    From E. Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-time Semantic
    Segmentation", IEEE T-ITS 2018, as the authors' PyTorch code has it. Layers are numbered as
    in the paper on activation matching, which puts its discriminators at 4, 8, 12 and 17 of 17:

    =======  ==================================================  ===================
    layer    what it is                                          shape
    =======  ==================================================  ===================
    layer1   downsampler                                         [N, 16, H/2, W/2]
    layer2   downsampler                                         [N, 64, H/4, W/4]
    layer3   non-bottleneck-1D, dropout 0.03                     [N, 64, H/4, W/4]
    layer4   the same; **matched in the paper**                  [N, 64, H/4, W/4]
    layer5   the same                                            [N, 64, H/4, W/4]
    layer6   the same                                            [N, 64, H/4, W/4]
    layer7   the same                                            [N, 64, H/4, W/4]
    layer8   downsampler; **matched in the paper**               [N, 128, H/8, W/8]
    layer9   non-bottleneck-1D, dropout 0.3, dilation 2          [N, 128, H/8, W/8]
    layer10  the same, dilation 4                                [N, 128, H/8, W/8]
    layer11  the same, dilation 8                                [N, 128, H/8, W/8]
    layer12  the same, dilation 16; **matched in the paper**     [N, 128, H/8, W/8]
    layer13  the same, dilation 2                                [N, 128, H/8, W/8]
    layer14  the same, dilation 4                                [N, 128, H/8, W/8]
    layer15  the same, dilation 8                                [N, 128, H/8, W/8]
    layer16  the same, dilation 16                               [N, 128, H/8, W/8]
    layer17  the head, conv 1×1; **matched in the paper**        [N, classes, H/8, W/8]
    =======  ==================================================  ===================

    With 3 channels, 1,874,044 parameters before the head, and 129 a class in it. All
    activations but the logits are taken after the ReLU.
    """

    name = "erfnet-encoder"
    features = "layer16"
    stride = 8
    multiple = 8

    def __init__(self, in_channels: int = 3, classes: int = 19) -> None:
        super().__init__(numbered([*_encoder(in_channels), nn.Conv2d(128, classes, 1)]))


@register_network("erfnet")
class ERFNet(ChainNetwork):
    """ERFNet with its decoder; logits at full resolution.

    Sources as for `ERFNetEncoder`, whose layer1 … layer16 are the same and whose head the
    decoder replaces:

    =================  ===========================  =====================
    layer              what it is                   shape
    =================  ===========================  =====================
    layer1 … layer16   as in `ERFNetEncoder`        [N, 128, H/8, W/8]
    layer17            upsampler                    [N, 64, H/4, W/4]
    layer18, layer19   non-bottleneck-1D            [N, 64, H/4, W/4]
    layer20            upsampler                    [N, 16, H/2, W/2]
    layer21, layer22   non-bottleneck-1D            [N, 16, H/2, W/2]
    layer23            transposed conv 2×2          [N, classes, H, W]
    =================  ===========================  =====================

    With 3 channels and 19 classes 2,064,191 parameters, 190,147 of them in the decoder.
    """

    name = "erfnet"
    features = "layer22"
    stride = 1
    multiple = 8

    def __init__(self, in_channels: int = 3, classes: int = 19) -> None:
        super().__init__(numbered([*_encoder(in_channels), *_decoder(classes)]))
