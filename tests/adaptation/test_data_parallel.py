"""Several workers do the mathematics of one."""

from pathlib import Path

import pytest
import torch
from tiny_network import (
    LAYERS,
    SOURCE_IMAGES,
    TARGET_IMAGES,
    batch,
    in_uneven_batches,
    start_workers,
    tiny_players,
)
from torch import nn

from gam_ray.adaptation import (
    GeneralMatching,
    HealthMeter,
    broadcast_object,
    gather_rows,
    layer_moments,
    rank,
    shard,
    sum_over_workers,
    world_size,
)

DRIFTS = (1.0, 0.0)


def adapt(folder: Path) -> None:
    """Ten steps on shares of the same batches; every worker writes what it ends with."""
    for drift in DRIFTS:
        players = tiny_players(momentum=0.3)
        matching = GeneralMatching(
            players, weights=dict.fromkeys(LAYERS, 0.5), adversary="gan", drift_weight=drift
        )
        health = HealthMeter()
        for step in range(10):
            source, target = batch(SOURCE_IMAGES, step), batch(TARGET_IMAGES, step)
            health.add(matching.step(shard(source), shard(target)))
        state = {
            "target": players.target.state_dict(),
            "discriminators": players.discriminators.state_dict(),
            "health": {name: torch.tensor(value) for name, value in health.take().items()},
        }
        torch.save(state, folder / f"{drift}-{world_size()}-{rank()}.pt")


def sums_and_rows(_folder: Path) -> None:
    """Every collective against its meaning, on three workers."""
    assert (world_size(), rank() in range(3)) == (3, True)
    for count in range(1, 9):
        rows = torch.arange(2.0 * count).view(count, 2)
        assert torch.equal(gather_rows(shard(rows), count), rows)
    own = torch.tensor(rank() + 1.0, requires_grad=True)
    total = sum_over_workers(own)
    torch.autograd.backward((rank() + 1) * total**2)
    assert float(total) == 6
    assert float(own.grad) == (1 + 2 + 3) * 2 * 6
    assert broadcast_object(f"of worker {rank()}") == "of worker 0"
    layer = nn.Identity()
    found = layer_moments(layer, {"x": layer}, in_uneven_batches(SOURCE_IMAGES))["x"]
    torch.testing.assert_close(found.mean, SOURCE_IMAGES.mean((0, 2, 3)))
    torch.testing.assert_close(found.std, SOURCE_IMAGES.std((0, 2, 3), unbiased=False))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker ends with."""
    folder = tmp_path_factory.mktemp("alone")
    adapt(folder)
    return folder


@pytest.mark.parametrize("world", [2, 4])
def test_ten_steps_end_as_those_of_one_worker(world: int, alone: Path, tmp_path: Path) -> None:
    start_workers(adapt, world, tmp_path)
    for drift in DRIFTS:
        expected = torch.load(alone / f"{drift}-1-0.pt")
        for number in range(world):
            found = torch.load(tmp_path / f"{drift}-{world}-{number}.pt")
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_collectives_do_what_they_are_named_for(tmp_path: Path) -> None:
    start_workers(sums_and_rows, 3, tmp_path)


def test_one_worker_needs_no_process_group() -> None:
    rows = torch.rand(5, 2)
    assert (world_size(), rank()) == (1, 0)
    assert shard(rows).equal(rows)
    assert gather_rows(rows, 5) is rows
    assert sum_over_workers(rows) is rows
    assert broadcast_object("as it is") == "as it is"
