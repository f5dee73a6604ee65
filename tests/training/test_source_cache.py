"""The source network: trained once for all who want the same."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from tiny_task import BASE, start_processes, trial

from gam_ray.config import TrialConfig
from gam_ray.networks import LeNet
from gam_ray.training.data import load_task, to_float
from gam_ray.training.pretraining import SourceCache
from gam_ray.training.reports import DivergedError

CPU = torch.device("cpu")


class Stages(list[str]):
    """Counts calls of progress."""

    def tell(self, stage: str, done: int, total: int) -> None:
        self.append(f"{stage} {done}/{total}")


def get(folder: Path, config: TrialConfig = BASE) -> tuple[Any, Stages]:
    data, stages = load_task(config.task, folder), Stages()
    network = SourceCache(folder / "sources").get(
        config.task, config.pretraining, data, device=CPU, progress=stages.tell
    )
    return network, stages


def ask_together(number: int, folder: Path, gate: Any) -> None:
    """Wait for the others, ask, and leave the weights and whether they were trained here."""
    gate.wait(60)
    network, stages = get(folder)
    torch.save((network.state_dict(), len(stages)), folder / f"{number}.pt")


def test_the_source_network_is_trained_once_and_frozen(tmp_path: Path) -> None:
    network, stages = get(tmp_path)
    again, none = get(tmp_path)
    assert (stages, none) == (["training the source network 20/20"], [])
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
        assert not other.requires_grad
    assert not network.training


def test_of_several_processes_that_ask_together_one_trains(tmp_path: Path) -> None:
    gate = mp.get_context("forkserver").Barrier(3)
    start_processes(ask_together, 3, tmp_path, gate)
    found = [torch.load(tmp_path / f"{number}.pt") for number in range(3)]
    assert sorted(trained for _, trained in found) == [0, 0, 1]
    for state, _ in found:
        torch.testing.assert_close(state, found[0][0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"pretraining__steps": 21},
        {"pretraining__batch_size": 8},
        {"pretraining__learning_rate": 2e-3},
        {"pretraining__weight_decay": 0.0},
        {"pretraining__seed": 1},
        {"task__source": "tiny-target"},
        {"task__source": "tiny-mislabelled"},
        {"task__network": "other"},
    ],
)
def test_what_makes_another_network_makes_another_file(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    files = set()
    for config in (BASE, trial(**changed)):
        data = load_task(config.task, tmp_path)
        files.add(SourceCache(tmp_path).file(config.task, config.pretraining, data))
    assert len(files) == 2


def test_the_target_and_the_adaptation_make_no_other_file(tmp_path: Path) -> None:
    files = set()
    for config in (BASE, trial(task__target="tiny-unlabelled", seed=5, adaptation__weight=3.0)):
        data = load_task(config.task, tmp_path)
        files.add(SourceCache(tmp_path).file(config.task, config.pretraining, data))
    assert len(files) == 1


def test_training_is_adam_on_the_cross_entropy(tmp_path: Path) -> None:
    """One step, of the whole training set, written out."""
    config = trial(pretraining__steps=1, pretraining__batch_size=64, pretraining__weight_decay=0.5)
    with torch.random.fork_rng():
        before = get(tmp_path, trial(pretraining__steps=1, pretraining__learning_rate=1e-30))[0]
    after = get(tmp_path, config)[0]
    train = load_task(BASE.task, tmp_path).source_train
    network = LeNet()
    network.load_state_dict(before.state_dict())
    loss = torch.nn.functional.cross_entropy(network(to_float(train.images)), train.labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    for old, new, gradient in zip(before.parameters(), after.parameters(), gradients, strict=True):
        total = gradient + 0.5 * old
        step = -config.pretraining.learning_rate * total / (total.abs() + 1e-8)
        torch.testing.assert_close(new - old, step, rtol=1e-2, atol=2e-6)


def test_a_source_network_learns_its_domain(tmp_path: Path) -> None:
    config = trial(pretraining__steps=60)
    network, _ = get(tmp_path, config)
    held_out = load_task(config.task, tmp_path).source_held_out
    predicted = network(to_float(held_out.images)).argmax(1)
    assert (predicted == held_out.labels).double().mean() > 0.8


def test_asking_leaves_the_callers_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    get(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_a_source_network_that_diverged_is_named_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="source network's loss is not finite at step 20"):
        get(tmp_path, trial(pretraining__learning_rate=1e20))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    get(tmp_path)
    (file,) = tmp_path.rglob("*.pt")
    os.truncate(file, 1000)
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        get(tmp_path)
