"""Small networks in float64, two domains of random images, and processes that work together."""

import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from gam_ray.adaptation import (
    Discriminators,
    Players,
    TappedNetwork,
    build_discriminator,
    choose_layers,
    layer_moments,
    match_network,
    shard,
    share_batch_norm,
)

LAYERS = ("conv1", "fc2")
BETAS, LEARNING_RATE = (0.5, 0.999), 1e-3


class TinyNet(nn.Module):
    """conv 3×3-4, ReLU, pool; fc 12, ReLU; fc 5; for 10×10 images.

    Without biases: where batch moments take a bias out again, its gradient is rounding alone,
    which Adam blows up to steps of full size, so that equal mathematics give other numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2))
        self.fc2 = nn.Sequential(nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU())
        self.fc3 = nn.Linear(12, 5, bias=False)

    @property
    def layers(self) -> dict[str, nn.Module]:
        return {"conv1": self.conv1, "fc2": self.fc2, "fc3": self.fc3}

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc3(self.fc2(self.conv1(images)))
        return logits


def tiny_network(seed: int = 0) -> TinyNet:
    """In float64, with the weights of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet().double()


class TinyBatchNormNet(TinyNet):
    """`TinyNet` with BatchNorm behind the convolution and fc2's matrix; fc3 is a plain head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1.insert(1, nn.BatchNorm2d(4))
        self.fc2.insert(1, nn.Dropout(dropout))
        self.fc2.insert(3, nn.BatchNorm1d(12))

    @property
    def norms(self) -> dict[str, nn.BatchNorm1d | nn.BatchNorm2d]:
        return {"conv1": self.conv1[1], "fc2": self.fc2[3]}


def tiny_batch_norm_network(seed: int = 0, *, dropout: float = 0.0) -> TinyBatchNormNet:
    """In float64 and evaluation mode, with the statistics of the source images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyBatchNormNet(dropout).double()
        for norm in network.norms.values():
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.5)
            norm.momentum = 1.0
        with torch.no_grad():
            network(SOURCE_IMAGES)
    for norm in network.norms.values():
        norm.momentum = 0.1
    return network.eval()


def random_images(count: int, *, seed: int, contrast: float = 1.0) -> Tensor:
    """float64 [count, 1, 10, 10], around zero, so that no channel is dead."""
    generator = torch.Generator().manual_seed(seed)
    return contrast * torch.randn(count, 1, 10, 10, generator=generator, dtype=torch.float64)


SOURCE_IMAGES = random_images(40, seed=1)
TARGET_IMAGES = random_images(40, seed=2, contrast=0.4) + 0.1


def batch(images: Tensor, step: int) -> Tensor:
    """Eight images of a step."""
    return images[torch.arange(8 * step, 8 * step + 8) % len(images)]


def in_uneven_batches(images: Tensor) -> Iterator[Tensor]:
    """This worker's share in parts of different sizes."""
    mine = shard(images)
    yield mine[:3]
    yield mine[3:4]
    yield mine[4:]


def in_shares(images: Tensor) -> Iterator[Tensor]:
    """This worker's shares of batches that are the same for any number of workers."""
    for part in images.split(20):
        yield shard(part)


def tiny_players(*, momentum: float | None, outputs: int = 1, batch_norm: bool = False) -> Players:
    """Players with equal weights at every call; without matching where momentum is None."""
    source = tiny_batch_norm_network() if batch_norm else tiny_network()
    batches = in_shares if batch_norm else in_uneven_batches
    share_batch_norm(source)
    target = deepcopy(source)
    if momentum is not None:
        moments = layer_moments(source, source.layers, batches(SOURCE_IMAGES))
        match_network(
            target,
            target.layers,
            moments,
            lambda: batches(TARGET_IMAGES),
            momentum=momentum,
        )
    chosen = choose_layers(source.layers, LAYERS)
    examples = TappedNetwork(source, chosen)(SOURCE_IMAGES[:2])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        judges = {
            name: build_discriminator(x.shape, outputs=outputs) for name, x in examples.items()
        }
    discriminators = Discriminators(judges).double()
    return Players(
        source=source.requires_grad_(requires_grad=False),
        target=target.train(),
        source_layers=chosen,
        target_layers=choose_layers(target.layers, LAYERS),
        discriminators=discriminators,
        target_optimizer=torch.optim.Adam(target.parameters(), LEARNING_RATE, BETAS),
        discriminator_optimizer=torch.optim.Adam(discriminators.parameters(), LEARNING_RATE, BETAS),
    )


# The server imports what workers need once, and they are forks of it.
mp.get_context("forkserver").set_forkserver_preload(
    ["gam_ray.training.trial", "sklearn.cluster", "torch._dynamo"]
)


def start_workers(work: Callable[..., None], world: int, folder: Path, *arguments: Any) -> None:
    """Call ``work(folder, *arguments)`` in each of `world` processes of one process group."""
    meeting = folder / f"meeting-{world}"
    mp.start_processes(
        _enter, (world, meeting, work, (folder, *arguments)), world, start_method="forkserver"
    )


def _enter(
    rank: int, world: int, meeting: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    work(*arguments)
    dist.destroy_process_group()
