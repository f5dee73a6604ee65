"""Random changes of whole batches where they lie: what `Augmentation` does image by image on CPUs.

Chance is drawn on the CPU, a few numbers an image; what is done with them is tensor operations
that wait for nothing, so that it can be part of a captured step. The operations are torchvision's,
on floats, in a fixed order: rotation, shift and zoom; crop; flip; brightness, contrast, saturation
and hue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from gam_ray.adaptation import shard
from gam_ray.config import AugmentationConfig, derive_seed
from gam_ray.domains import VOID

# What is drawn of each image, uniformly from [0, 1).
NUMBERS = (
    "angle", "right", "down", "zoom", "top", "left", "flip",
    "brightness", "contrast", "saturation", "hue",
)  # fmt: skip
# Of red, green and blue, as torchvision weighs them.
_GREY = (0.2989, 0.587, 0.114)


class BatchAugmentation:
    """Changes this worker's share of a batch; each image the same whatever the number of workers.

    Args:
        config: What is done.
        seed: Of all draws.
        batch_size: Images a step, over all workers.
    """

    def __init__(self, config: AugmentationConfig, seed: int, batch_size: int) -> None:
        self._config = config
        self._seed = seed
        self._batch_size = batch_size

    def draw(self, step: int) -> Tensor:
        """Chance for this worker's images of a step, [n, numbers] in [0, 1), on the CPU."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "augmentation", step))
        drawn = torch.rand(self._batch_size, len(NUMBERS), generator=generator)
        return shard(drawn)

    def images(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Float images [n, C, H, W] in [0, 1], changed; smaller if they are cropped."""
        chance = _Chance(self._config, drawn, images)
        if chance.moves:
            images = grid_sample(images, chance.grid(), padding_mode="zeros", align_corners=False)
        return self._coloured(chance.cut(images), chance)

    def labels(self, labels: Tensor, drawn: Tensor) -> Tensor:
        """Maps [n, H, W], moved as their images are; what comes in from outside is void."""
        maps = labels.unsqueeze(1)
        chance = _Chance(self._config, drawn, maps)
        if chance.moves:
            # Zeros come in from outside, so that zero has to mean nothing else.
            moved = grid_sample(
                maps.float() + 1, chance.grid(), mode="nearest", align_corners=False
            )
            maps = torch.where(moved > 0, moved - 1, VOID).to(labels.dtype)
        return chance.cut(maps).squeeze(1)

    def _coloured(self, images: Tensor, chance: _Chance) -> Tensor:
        if not self._config.colour:
            return images
        images = (images * chance.factor("brightness")).clamp(0, 1)
        mean = _grey(images).mean((1, 2, 3), keepdim=True)
        images = _blend(images, mean, chance.factor("contrast"))
        if images.shape[1] == len(_GREY):  # grey ones have neither saturation nor hue
            images = _blend(images, _grey(images), chance.factor("saturation"))
            images = _turn_hue(images, chance.hue())
        return images


class _Chance:
    """What the numbers of each image stand for."""

    def __init__(self, config: AugmentationConfig, drawn: Tensor, images: Tensor) -> None:
        self._config = config
        self._drawn = dict(zip(NUMBERS, drawn.unbind(1), strict=True))
        self._count, _, self._height, self._width = images.shape
        self._device = images.device
        self.moves = bool(config.rotate or config.shift or config.zoom)

    def _between(self, name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * self._drawn[name]

    def grid(self) -> Tensor:
        """Where in the image each place of the changed one comes from, [n, H, W, 2] in [-1, 1]."""
        config, height, width = self._config, self._height, self._width
        angle = torch.deg2rad(self._between("angle", -config.rotate, config.rotate))
        scale = self._between("zoom", 1 - config.zoom, 1 + config.zoom)
        right = self._between("right", -config.shift * width, config.shift * width).round()
        down = self._between("down", -config.shift * height, config.shift * height).round()
        x = self._places(width).view(1, 1, -1) - right.view(-1, 1, 1)
        y = self._places(height).view(1, -1, 1) - down.view(-1, 1, 1)
        cos, sin = ((f(angle) / scale).view(-1, 1, 1) for f in (torch.cos, torch.sin))
        across, along = (cos * x + sin * y) / (width / 2), (cos * y - sin * x) / (height / 2)
        return torch.stack([across, along], dim=-1)

    def _places(self, size: int) -> Tensor:
        """The middles of pixels, counted from the middle of the image."""
        return torch.arange(size, device=self._device) - (size - 1) / 2

    def cut(self, maps: Tensor) -> Tensor:
        """Cropped, and flipped."""
        config, height, width = self._config, self._height, self._width
        if not (config.crop or config.flip):
            return maps
        high, wide = config.crop or (height, width)
        top = (self._drawn["top"] * (height - high + 1)).long().view(-1, 1)
        left = (self._drawn["left"] * (width - wide + 1)).long().view(-1, 1)
        rows = top + torch.arange(high, device=self._device)
        columns = torch.arange(wide, device=self._device).expand(self._count, -1)
        if config.flip:
            is_flipped = (self._drawn["flip"] < 0.5).view(-1, 1)
            columns = torch.where(is_flipped, wide - 1 - columns, columns)
        columns = left + columns
        taken = maps.movedim(1, -1)[
            torch.arange(self._count, device=self._device).view(-1, 1, 1),
            rows.unsqueeze(2),
            columns.unsqueeze(1),
        ]
        return taken.movedim(-1, 1)

    def factor(self, name: str) -> Tensor:
        """Of a colour, [n, 1, 1, 1]."""
        colour = self._config.colour
        return self._between(name, 1 - colour, 1 + colour).view(-1, 1, 1, 1)

    def hue(self) -> Tensor:
        """By what part of a turn it moves, [n, 1, 1]."""
        most = self._config.colour / 10
        return self._between("hue", -most, most).view(-1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """[n, 1, H, W]."""
    if images.shape[1] != len(_GREY):
        return images
    red, green, blue = images.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Images with every hue moved by a part of a turn; value and saturation stay."""
    red, green, blue = images.unbind(1)
    lowest, highest = torch.aminmax(images, dim=1)
    spread = highest - lowest
    is_grey = spread == 0
    apart = torch.where(is_grey, torch.ones_like(spread), spread)
    sixth = torch.where(
        highest == red,
        (green - blue) / apart,
        torch.where(highest == green, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    # The channels of a pure colour follow the hue as one tent each, a third of a turn apart.
    places = [(start + sixth + 6 * turn).remainder(6) for start in (5, 3, 1)]
    tents = [torch.minimum(place, 4 - place).clamp(0, 1) for place in places]
    return torch.stack([highest - spread * tent for tent in tents], dim=1)
