"""Several workers do the mathematics of one."""

from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

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
    SharedBatchNorm,
    broadcast_object,
    gather_rows,
    layer_moments,
    rank,
    shard,
    sum_over_workers,
    train_mode,
    world_size,
)

STEPS = 20


class Case(NamedTuple):
    """One way to adapt: with BatchNorm or with running matchings at every layer."""

    batch_norm: bool
    adversary: str
    drift: float
    reduction: str = "sum"


CASES = [
    Case(batch_norm=False, adversary="gan", drift=1.0),
    Case(batch_norm=False, adversary="lsgan", drift=0.0),
    Case(batch_norm=False, adversary="inverted", drift=1.0, reduction="mean"),
    Case(batch_norm=True, adversary="gan", drift=1.0, reduction="mean"),
    Case(batch_norm=True, adversary="lsgan", drift=1.0),
    Case(batch_norm=True, adversary="inverted", drift=0.0),
]


def adapt(folder: Path) -> None:
    """Twenty steps on shares of the same batches; every worker writes where it began and ended."""
    for number, case in enumerate(CASES):
        players = tiny_players(
            momentum=0.3,
            outputs=2 if case.adversary == "inverted" else 1,
            batch_norm=case.batch_norm,
        )
        train_mode(players.target, statistics=True, dropout=False)
        matching = GeneralMatching(
            players,
            weights=dict.fromkeys(LAYERS, 0.5),
            adversary=case.adversary,
            drift_weight=case.drift,
            drift_reduction=case.reduction,
        )
        begun, health = deepcopy(players.target.state_dict()), HealthMeter()
        for step in range(STEPS):
            source, target = batch(SOURCE_IMAGES, step), batch(TARGET_IMAGES, step)
            health.add(matching.step(shard(source), shard(target)))
        state = {
            "begun": begun,
            "target": players.target.state_dict(),
            "discriminators": players.discriminators.state_dict(),
            "health": {name: torch.tensor(value) for name, value in health.take().items()},
        }
        torch.save(state, folder / f"{number}-{world_size()}-{rank()}.pt")


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
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one, two and four workers end with."""
    folder = tmp_path_factory.mktemp("adapted")
    adapt(folder)
    for world in (2, 4):
        start_workers(adapt, world, folder)
    return folder


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(tuple(case)) for case in CASES])
def test_twenty_steps_end_as_those_of_one_worker(number: int, world: int, adapted: Path) -> None:
    expected = torch.load(adapted / f"{number}-1-0.pt")
    for worker in range(world):
        found = torch.load(adapted / f"{number}-{world}-{worker}.pt")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(tuple(case)) for case in CASES])
def test_twenty_steps_move_weights_and_moments(number: int, adapted: Path) -> None:
    """What is compared above is no standstill."""
    ended = torch.load(adapted / f"{number}-1-0.pt")
    moved = {
        name
        for name, value in ended["target"].items()
        if (value - ended["begun"][name]).abs().max() > 1e-6
    }
    if CASES[number].batch_norm:
        weights = {"conv1.0.weight", "conv1.1.weight", "fc2.2.weight", "fc2.3.bias"}
        moments = {f"{n}.running_{m}" for n in ("conv1.1", "fc2.3") for m in ("mean", "var")}
    else:
        weights = {"conv1.0.weight", "fc2.1.weight"}
        moments = {f"matching.{n}.target_{m}" for n in LAYERS for m in ("mean", "std")}
    assert weights | moments <= moved
    # Behind the last chosen layer nothing runs.
    assert not {"fc3.weight", "matching.fc3.target_mean", "matching.fc3.target_std"} & moved


def test_batch_norms_of_the_players_are_shared() -> None:
    players = tiny_players(momentum=0.3, batch_norm=True)
    shared = [m for m in players.target.modules() if isinstance(m, SharedBatchNorm)]
    assert [norm.momentum for norm in shared] == [0.3, 0.3]
    assert list(players.target.matching) == ["fc3"]


def test_collectives_do_what_they_are_named_for(tmp_path: Path) -> None:
    start_workers(sums_and_rows, 3, tmp_path)


def test_one_worker_needs_no_process_group() -> None:
    rows = torch.rand(5, 2)
    assert (world_size(), rank()) == (1, 0)
    assert shard(rows).equal(rows)
    assert gather_rows(rows, 5) is rows
    assert sum_over_workers(rows) is rows
    assert broadcast_object("as it is") == "as it is"
