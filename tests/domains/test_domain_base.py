"""Image sets, splits, and the two kinds of domain."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gam_ray.domains import (
    VOID,
    Domain,
    LabelledDomain,
    LabelledImages,
    LabelsMissingError,
    Problem,
    UnlabelledImages,
    carve_held_out,
    fixed_permutation,
)


def some_images(count: int = 6, channels: int = 1) -> Tensor:
    pixels = torch.arange(count * channels * 16) % 256
    return pixels.to(torch.uint8).reshape(count, channels, 4, 4)


def some_part(count: int = 6) -> LabelledImages:
    return LabelledImages(some_images(count), torch.arange(count) % 3)


def test_an_unlabelled_set_has_no_field_but_its_images() -> None:
    assert [field.name for field in dataclasses.fields(UnlabelledImages)] == ["images"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some_images().float(), r"torch.float32 of shape \(6, 1, 4, 4\)"),
        (some_images().squeeze(1), r"torch.uint8 of shape \(6, 4, 4\)"),
        (some_images()[:0], r"at least one, but this one's shape is \(0, 1, 4, 4\)"),
        (some_images().clamp(max=1), "brightest pixel of these is 1: they look scaled"),
    ],
)
def test_images_of_another_type_shape_or_range_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnlabelledImages(images)
    with pytest.raises(ValueError, match=message):
        LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), r"int64 tensor \[6\].*shape \(5,\)"),
        (torch.zeros(6, 1, dtype=torch.int64), r"shape \(6, 1\)"),
        (torch.zeros(6), "torch.float32"),
        (torch.arange(6) - 1, "from 0, but one is -1"),
        (torch.zeros(6, dtype=torch.uint8), r"uint8 tensor \[6, 4, 4\].*torch.uint8 of shape"),
        (torch.zeros(6, 4, 4, dtype=torch.int64), r"torch.int64 of shape \(6, 4, 4\)"),
        (torch.zeros(6, 4, 5, dtype=torch.uint8), r"shape \(6, 4, 5\)"),
        (torch.full((6, 4, 4), VOID, dtype=torch.uint8), "all 6 of these .* every pixel is void"),
    ],
)
def test_labels_of_another_type_number_or_range_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledImages(some_images(), labels)


def test_a_fingerprint_tells_pixels_labels_and_shapes_apart() -> None:
    part = some_part()
    changed_pixel, changed_label = part.images.clone(), part.labels.clone()
    changed_pixel[3, 0, 2, 1] += 1
    changed_label[5] += 1
    wider = LabelledImages(part.images.reshape(6, 1, 2, 8), part.labels)
    parts = [
        part,
        LabelledImages(changed_pixel, part.labels),
        LabelledImages(part.images, changed_label),
        wider,
    ]
    assert len({each.fingerprint() for each in parts}) == len(parts)
    assert part.fingerprint() == some_part().fingerprint()
    assert len(part.without_labels().fingerprint()) == 64


def test_a_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    images = some_images(channels=3)
    strided = images.to(memory_format=torch.channels_last)
    assert UnlabelledImages(strided).fingerprint() == UnlabelledImages(images).fingerprint()


@settings(deadline=None)  # A busy machine is no failure.
@given(st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_held_out_and_train_make_up_the_whole(sizes: tuple[int, int]) -> None:
    count, held_out = sizes
    part = LabelledImages(some_images(count), torch.arange(count))
    parts = carve_held_out(part, held_out=held_out)
    assert len(parts["held_out"]) == held_out
    labels = torch.cat([parts["train"].labels, parts["held_out"].labels])
    assert torch.equal(labels.sort().values, part.labels)
    for each in parts.values():
        assert torch.equal(each.images, part.images[each.labels])


@pytest.mark.parametrize("held_out", [-1, 0, 6])
def test_neither_part_may_be_empty(held_out: int) -> None:
    with pytest.raises(ValueError, match=f"From 1 to 5 of 6 .* but {held_out} were"):
        carve_held_out(some_part(), held_out=held_out)


def test_the_permutation_never_changes() -> None:
    """Another order would hold out other images, and change every result without a sign."""
    assert fixed_permutation(12).tolist() == [9, 0, 11, 3, 8, 1, 7, 4, 5, 2, 6, 10]


class Unlabelled(Domain):
    """A domain of images alone."""

    name, class_names, image_shape = "photos", ("a",), (1, 4, 4)

    def unlabelled(self, split: str) -> UnlabelledImages:
        """Return the same images for every split."""
        del split
        return UnlabelledImages(some_images())


class Labelled(LabelledDomain):
    """A domain that counts how often it is loaded."""

    name, class_names, image_shape = "drawings", ("a", "b", "c"), (1, 4, 4)
    loads = 0

    def _load(self, split: str) -> dict[str, LabelledImages]:
        self.loads += 1
        return {split: some_part()}


class Outlines(LabelledDomain):
    """A domain of one class and void; its first image is void throughout."""

    name, class_names, image_shape = "outlines", ("a",), (1, 4, 4)
    problem: Problem = "segmentation"
    largest = 0

    def _load(self, split: str) -> dict[str, LabelledImages]:
        labels = torch.full((6, 4, 4), VOID, dtype=torch.uint8)
        labels[1:, 2] = self.largest
        return {split: LabelledImages(some_images(), labels)}


def test_what_a_split_holds_is_logged_once_by_class(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gam_ray")
    domain = Labelled(Path("anywhere"))
    domain.unlabelled("train")
    domain.labelled("train")
    assert caplog.messages == ["drawings train: 6 images, 1 channels, 4×4; by class: a 2, b 2, c 2"]


def test_pixels_may_be_void_and_an_image_too() -> None:
    labels = Outlines(Path("anywhere")).labelled("train").labels
    assert labels.unique().tolist() == [0, VOID]


@pytest.mark.parametrize("largest", [1, VOID - 1])
def test_a_pixel_of_no_class_and_not_void_is_refused(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outlines, "largest", largest)
    with pytest.raises(ValueError, match=f"1 classes, so .* end at 0, but one is {largest}"):
        Outlines(Path("anywhere")).labelled("train")


@pytest.mark.parametrize(("domain", "problem"), [(Outlines, "classification"), (Labelled, "seg")])
def test_labels_are_of_the_domain_s_problem(
    domain: type[Domain], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "problem", problem)
    with pytest.raises(ValueError, match=f"is one of {problem}, but loaded labels of "):
        domain(Path("anywhere")).labelled("train")


def test_a_domain_without_labels_says_so() -> None:
    domain = Unlabelled(Path("anywhere"))
    assert len(domain.unlabelled("train")) == 6
    with pytest.raises(LabelsMissingError, match=r"'photos' has no labels.*'test'"):
        domain.labelled("test")


def test_a_split_is_loaded_once() -> None:
    domain = Labelled(Path("anywhere"))
    assert domain.labelled("train") is domain.labelled("train")
    domain.unlabelled("train")
    assert domain.loads == 1


def test_what_is_loaded_must_be_what_the_class_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labelled, "image_shape", (1, 8, 8))
    with pytest.raises(ValueError, match=r"promises .* \(1, 8, 8\), but loaded \(1, 4, 4\)"):
        Labelled(Path("anywhere")).unlabelled("train")
    monkeypatch.undo()
    monkeypatch.setattr(Labelled, "class_names", ("a", "b"))
    with pytest.raises(ValueError, match="2 classes, so its labels end at 1, but one is 2"):
        Labelled(Path("anywhere")).labelled("train")
