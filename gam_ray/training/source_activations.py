"""What the frozen source network gives out on source images, computed once for many trials.

A step needs the source network's activations alone. It does not learn, so that on images that are
not augmented they are always the same: a worker keeps them for its trials, as far as they fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gam_ray.adaptation import Taps, choose_layers, gather_rows
from gam_ray.networks import MatchableNetwork
from gam_ray.training.data import to_float
from gam_ray.training.evaluation import float_batches

# Of all kept layers of a worker: 60,000 digits behind LeNet's conv2, fc3 and fc4 have 310 MB.
MOST_BYTES = 512 * 2**20
# A trial that looks at fewer of the images than this share has its layers computed step by step.
LEAST_SHARE = 0.5


class SourceActivations:
    """Layer by layer, the activations of every training image of the source."""

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def keep(
        self,
        network: MatchableNetwork,
        names: tuple[str, ...],
        images: Tensor,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Those of the layers that fit, computed where they are not here yet.

        All workers of a trial call it together; each gets all rows.

        Args:
            network: Always the same one.
            names: Of its layers.
            images: uint8 [N, C, H, W], always the same.
            device: Where the network is, and where rows are kept.

        Returns:
            Layer name → float [N, …], of some of the layers.
        """
        missing = tuple(name for name in names if name not in self._rows)
        wanted = choose_layers(network.layers, self._fitting(network, missing, images, device))
        if wanted:
            self._rows |= _pass(network, wanted, images, device)
        return {name: self._rows[name] for name in names if name in self._rows}

    def _fitting(
        self,
        network: MatchableNetwork,
        names: tuple[str, ...],
        images: Tensor,
        device: torch.device,
    ) -> tuple[str, ...]:
        """The names of the layers that fit beside what is kept, the smallest first."""
        if not names:
            return ()
        # The same image on every worker, so that all of them decide alike.
        with torch.no_grad(), Taps(choose_layers(network.layers, names)) as taps:
            one = taps.run(network, to_float(images[:1], device))
        sizes = {name: len(images) * value.nbytes for name, value in one.items()}
        used, fitting = sum(rows.nbytes for rows in self._rows.values()), []
        for name in sorted(sizes, key=lambda each: sizes[each]):
            used += sizes[name]
            if used <= MOST_BYTES:
                fitting.append(name)
        return tuple(fitting)


def pays(steps: int, batch_size: int, images: int) -> bool:
    """Whether a trial looks at enough of the source's images for a pass over all of them."""
    return steps * batch_size >= LEAST_SHARE * images


@torch.no_grad()
def _pass(
    network: MatchableNetwork,
    layers: dict[str, torch.nn.Module],
    images: Tensor,
    device: torch.device,
) -> dict[str, Tensor]:
    """Layer name → rows of all images; each worker runs its share."""
    with Taps(layers) as taps:
        parts = [taps.run(network, batch) for batch in float_batches(images, device)]
    return {name: _gathered([part[name] for part in parts], len(images)) for name in layers}


def _gathered(parts: list[Tensor], count: int) -> Tensor:
    rows = gather_rows(torch.cat(parts), count)
    # As the network lays out its maps: discriminators then need not turn them round.
    return rows.contiguous(memory_format=torch.channels_last) if rows.dim() == 4 else rows
