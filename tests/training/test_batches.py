"""How images come to a step: one by one changed on a CPU, all there on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gam_ray.config import AugmentationConfig
from gam_ray.training import batches
from gam_ray.training.batches import Batches

COUNT, SIDE, SIZE = 12, 8, 4
CPU = torch.device("cpu")


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (COUNT, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def build(augmentation: AugmentationConfig, labels: Tensor | None) -> Batches:
    return Batches(
        images(), labels, augmentation, batch_size=SIZE, order_seed=1, seed=2, device=CPU
    )


class _LikeAGPU:
    """What `Batches` asks of a device, so that it takes a CPU for a GPU."""

    type = "a GPU's"


def as_on_a_gpu(
    augmentation: AugmentationConfig, labels: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> Batches:
    """With all images resident, on a CPU."""
    monkeypatch.setattr(batches, "resident", lambda part, _device: part)
    monkeypatch.setattr(batches, "to_float", lambda part, _device: part.to(torch.float32).div_(255))
    return Batches(
        images(), labels, augmentation, batch_size=SIZE, order_seed=1, seed=2, device=_LikeAGPU()
    )


KINDS = {
    "none": None,
    "classes": torch.arange(COUNT) % 3,
    "maps": torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1).expand(-1, SIDE, SIDE),
    "distributions": torch.eye(COUNT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_takes_the_same_images_by_their_numbers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, plain = KINDS[kind], AugmentationConfig()
    here, there = build(plain, labels), as_on_a_gpu(plain, labels, monkeypatch)
    for step in range(5):
        sent, known = here.inputs(step), there.inputs(step)
        assert len(sent) == here.inputs_a_step == (2 if labels is None else 3)
        assert len(known) == there.inputs_a_step == 1
        assert torch.equal(sent[0], known[0])
        found, expected = there.take(*known), here.take(*sent)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[0], images()[sent[0]].float() / 255)
        if labels is None:
            assert found[1] is None
            continue
        assert torch.equal(found[1], labels[sent[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_changes_images_itself_and_moves_maps_alone_with_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = KINDS[kind]
    there = as_on_a_gpu(AugmentationConfig(crop=(4, 6), flip=True), labels, monkeypatch)
    inputs = there.inputs(3)
    assert len(inputs) == there.inputs_a_step == 2
    changed, found = there.take(*inputs)
    assert changed.shape == (SIZE, 1, 4, 6)
    for image, original in zip(changed, images()[inputs[0]], strict=True):
        windows = (original.float() / 255).unfold(1, 4, 1).unfold(2, 6, 1)
        places = [windows[:, y, x] for y in range(5) for x in range(3)]
        assert any(torch.equal(image, w) or torch.equal(image, w.flip(2)) for w in places)
    if labels is None:
        assert found is None
    elif kind == "maps":
        assert found is not None
        assert found.shape == (SIZE, 4, 6)
        assert torch.equal(found[:, 0, 0], labels[inputs[0], 0, 0])
    else:
        assert found is not None
        assert torch.equal(found, labels[inputs[0]])
