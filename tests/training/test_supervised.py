"""The loss of labelled steps, and the whole of a short pretraining, against plain torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import BASE, STREET, start_workers, trial
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from gam_ray.adaptation import rank, shard
from gam_ray.config import PretrainingConfig, TrialConfig, derive_seed
from gam_ray.domains import VOID, LabelledImages
from gam_ray.networks import build_network
from gam_ray.training.augmentation import Augmentation
from gam_ray.training.data import IndexStream, load_task, to_float
from gam_ray.training.pretraining import train_source
from gam_ray.training.supervised import Supervised, mean_cross_entropy

CPU = torch.device("cpu")


def maps() -> tuple[Tensor, Tensor]:
    """Logits at stride 4 and labels of four images, of which the odd ones are mostly void."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 4, 4, generator=generator)
    labels = torch.randint(3, (4, 16, 16), generator=generator)
    labels[:, :, 12:] = VOID
    labels[1::2, 2:] = VOID
    return logits, labels


def by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over pixels that are not void of −log p(label)."""
    full = interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    log_p = full.movedim(1, -1).reshape(-1, logits.shape[1]).log_softmax(-1)
    kept = labels.flatten() != VOID
    return -log_p[kept, labels.flatten()[kept]].mean()


def value_and_gradient(loss: Any, logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    return value.item(), torch.autograd.grad(value, logits)[0]


def test_void_pixels_do_not_count() -> None:
    logits, labels = maps()
    found = value_and_gradient(mean_cross_entropy, logits, labels)
    torch.testing.assert_close(found, value_and_gradient(by_hand, logits, labels))
    assert found[0] != pytest.approx(float(by_hand(logits, labels.masked_fill(labels > 2, 0))))


def test_images_that_are_all_void_give_zero() -> None:
    logits, labels = maps()
    value, gradient = value_and_gradient(mean_cross_entropy, logits, labels.fill_(VOID))
    assert value == 0
    assert not gradient.any()


def test_class_255_of_images_is_a_class_like_any_other() -> None:
    logits, labels = torch.randn(3, 300), torch.tensor([255, 299, 255])
    found = value_and_gradient(mean_cross_entropy, logits, labels)
    torch.testing.assert_close(found, value_and_gradient(cross_entropy, logits, labels))
    assert found[1][[0, 2]].any()


def leave_share_of_loss(folder: Path) -> None:
    logits, labels = maps()
    found = value_and_gradient(mean_cross_entropy, shard(logits), shard(labels))
    torch.save(found, folder / f"{rank()}.pt")


def test_workers_with_unequally_many_void_pixels_average_to_the_mean(tmp_path: Path) -> None:
    start_workers(leave_share_of_loss, 2, tmp_path)
    shares = [torch.load(tmp_path / f"{number}.pt") for number in range(2)]
    value, gradient = value_and_gradient(by_hand, *maps())
    assert sum(share for share, _ in shares) / 2 == pytest.approx(value)
    assert abs(shares[0][0] - shares[1][0]) > 0.1
    for number, (_, found) in enumerate(shares):
        torch.testing.assert_close(found / 2, gradient[number::2])


def train_street(folder: Path) -> None:
    """Three steps; each worker leaves its network."""
    data = load_task(STREET.task, None)
    torch.manual_seed(0)
    network = build_network("tiny-fcn", in_channels=3, classes=3)
    train = data.source_train
    supervised = Supervised(
        network,
        train.images,
        train.labels,
        torch.optim.SGD(network.parameters(), lr=0.1),
        batch_size=4,
        augmentation=STREET.augmentation.model_copy(update={"flip": True}),
        steps=3,
        seed=1,
        device=CPU,
    )
    for step in range(3):
        supervised.step(step)
    torch.save(network.state_dict(), folder / f"{rank()}.pt")


def test_two_workers_train_as_one_does(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    train_street(folders[0])
    start_workers(train_street, 2, folders[1])
    one = torch.load(folders[0] / "0.pt")
    for number in range(2):
        torch.testing.assert_close(torch.load(folders[1] / f"{number}.pt"), one)


@pytest.mark.parametrize("config", [trial(pretraining__batch_size=4), STREET])
@pytest.mark.parametrize("schedule", ["constant", "poly"])
def test_pretraining_is_adam_on_flipped_images_with_a_schedule(
    config: TrialConfig, schedule: str
) -> None:
    """Three steps, written out."""
    data, steps = load_task(config.task, None), 3
    settings = {"steps": steps, "batch_size": 4, "schedule": schedule, "seed": 5}
    pretraining = PretrainingConfig(
        **settings, augmentation=BASE.augmentation.model_copy(update={"flip": True})
    )
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        in_channels, classes = data.in_channels, len(data.class_names)
        networks.append(
            build_network(config.task.network, in_channels=in_channels, classes=classes)
        )
    told: list[tuple[str, int, int]] = []
    train_source(
        networks[0], data, pretraining, device=CPU, progress=lambda *stage: told.append(stage)
    )
    assert told == [("training the source network", 3, 3)]
    by_torch(networks[1], data.source_train, pretraining)
    torch.testing.assert_close(
        networks[0].state_dict(), networks[1].state_dict(), rtol=1e-4, atol=1e-5
    )


def by_torch(network: torch.nn.Module, train: LabelledImages, config: PretrainingConfig) -> None:
    """Pretraining with torch's own schedule and void label."""
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    power = 0.9 if config.schedule == "poly" else 0.0
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, config.steps, power)
    order = IndexStream(len(train), config.batch_size, derive_seed(config.seed, "batches"))
    augmentation = Augmentation(config.augmentation, config.seed)
    for step in range(config.steps):
        part = train.take(order.batch(step))
        images, labels = augmentation.pairs(part.images, part.labels, step=step)
        logits = network(to_float(images))
        if labels.dim() == 3:
            logits = interpolate(logits, size=labels.shape[1:], mode="bilinear")
        optimizer.zero_grad()
        cross_entropy(logits, labels.long(), ignore_index=VOID).backward()
        optimizer.step()
        schedule.step()
