"""What a trial sees of its task."""

import dataclasses

import torch
from tiny_task import BASE

from gam_ray.domains import LabelledImages
from gam_ray.training.data import load_task


def test_fingerprints_are_of_images_and_labels_and_the_same_for_the_same() -> None:
    data = load_task(BASE.task, None)
    found = data.fingerprints()
    assert set(found) == {f"{s} {p}" for s in ("source", "target") for p in ("train", "held_out")}
    assert data.fingerprints() == load_task(BASE.task, None).fingerprints() == found
    train = data.source_train
    other = LabelledImages(train.images, train.labels.roll(1))
    assert not torch.equal(train.labels, other.labels)
    changed = dataclasses.replace(data, source_train=other).fingerprints()
    assert {part for part in found if found[part] != changed[part]} == {"source train"}
    count, _, digest = found["target train"].partition(" images, sha256 ")
    assert int(count) == len(data.target_train)
    assert len(digest) == 16
