"""Decoded once, by one process, and whole."""

import logging
import multiprocessing as mp
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from segmentation_trees import BUILDERS, SIZE, hold_out_few, write_ids

from gam_ray.domains import LabelledImages, image_cache
from gam_ray.domains.image_cache import (
    Recipe,
    StoredLabelledImages,
    StoredUnlabelledImages,
    cache_root,
    open_or_build,
)

COUNT = 70
SHAPE = (3, 4, 5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hold_out_few(monkeypatch)
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image(index: int) -> np.ndarray:
    return ((np.arange(60) + 7 * index) % 251).astype(np.uint8).reshape(SHAPE)


def labels(index: int) -> np.ndarray:
    return ((np.arange(20) + index) % 3).astype(np.uint8).reshape(SHAPE[1:])


def recipe(decode: Callable[[int], image_cache.Decoded] | None = None) -> Recipe:
    return Recipe(
        title="some images: train",
        content="version 1 of the files",
        count=COUNT,
        shape=SHAPE,
        labelled=True,
        decode=decode or (lambda index: (image(index), labels(index))),
    )


def refuse(index: int) -> image_cache.Decoded:
    raise AssertionError(f"image {index} is decoded again")


def test_what_is_stored_is_what_was_decoded_in_order() -> None:
    stored = open_or_build(recipe())
    expected = LabelledImages(
        torch.from_numpy(np.stack([image(index) for index in range(COUNT)])),
        torch.from_numpy(np.stack([labels(index) for index in range(COUNT)])),
    )
    assert isinstance(stored.images, StoredLabelledImages)
    assert torch.equal(stored.images.images, expected.images)
    assert torch.equal(stored.images.labels, expected.labels)
    assert stored.images.fingerprint() == expected.fingerprint()
    assert stored.pixels[:3] == tuple(torch.bincount(expected.labels.flatten()).tolist())
    assert sum(stored.pixels) == COUNT * 20


def test_images_without_labels_are_stored_alone() -> None:
    alone = replace(recipe(lambda index: (image(index), None)), labelled=False)
    stored = open_or_build(alone)
    assert isinstance(stored.images, StoredUnlabelledImages)
    assert not hasattr(stored.images, "labels")
    labelled = open_or_build(replace(recipe(), content="other")).images
    assert stored.images.fingerprint() == labelled.without_labels().fingerprint()
    assert sorted(path.name for path in alone.folder.iterdir()) == ["facts.json", "images.u8"]


def test_the_second_time_nothing_is_decoded_and_no_pixel_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = open_or_build(recipe())
    monkeypatch.setattr(image_cache, "add_to_digest", refuse)
    again = open_or_build(recipe(refuse))
    assert again.images.fingerprint() == first.images.fingerprint()
    assert torch.equal(again.images.images, first.images.images)
    assert again.pixels == first.pixels


def test_another_content_is_another_folder() -> None:
    open_or_build(recipe())
    with pytest.raises(AssertionError, match="decoded again"):
        open_or_build(replace(recipe(refuse), content="version 2 of the files"))


@pytest.mark.parametrize("file", ["images.u8", "labels.u8", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "longer", "gone"])
def test_what_is_damaged_is_made_again(
    file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_or_build(recipe())
    path = recipe().folder / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    again = open_or_build(recipe())
    assert path.read_bytes() == content
    assert again.images.fingerprint() == first.images.fingerprint()
    assert any("was damaged and is replaced" in each for each in caplog.messages)


def test_what_is_written_to_stays_in_memory() -> None:
    first = open_or_build(recipe()).images
    before = first.images.clone()
    first.images[3] = 0
    assert not torch.equal(first.images, before)
    assert torch.equal(open_or_build(recipe()).images.images, before)


def test_what_is_mapped_is_not_in_memory_before_it_is_read() -> None:
    """Sparse: 40 GB of zeros take no memory, no disk and no time."""
    large = replace(recipe(), count=40_000, shape=(3, 512, 512), labelled=False)
    folder = large.folder
    folder.mkdir(parents=True)
    with (folder / "images.u8").open("wb") as file:
        file.truncate(large.image_bytes)
    facts = image_cache._Facts(large.count, [3, 512, 512], False, "digest", "digest", [])
    (folder / "facts.json").write_text(image_cache.json.dumps(image_cache.asdict(facts)))
    stored = open_or_build(large).images
    assert stored.images.shape == (40_000, 3, 512, 512)
    assert int(stored.images[39_999].max()) == 0
    assert stored.fingerprint() == "digest"


def test_an_interrupted_build_leaves_nothing_to_be_taken_for_data(cache: Path) -> None:
    def interrupted(index: int) -> image_cache.Decoded:
        if index == 50:
            raise KeyboardInterrupt
        return image(index), labels(index)

    with pytest.raises(KeyboardInterrupt):
        open_or_build(recipe(interrupted))
    assert [path.suffix for path in cache.iterdir()] in ([".lock"], [])
    assert len(open_or_build(recipe()).images) == COUNT


def test_what_a_killed_process_left_is_removed() -> None:
    left = recipe().folder.with_name(f"{recipe().folder.name}.building")
    left.mkdir(parents=True)
    (left / "images.u8").write_bytes(b"half")
    assert len(open_or_build(recipe()).images) == COUNT
    assert not left.exists()


def _count_decodes(folder: Path, start: "mp.synchronize.Barrier") -> None:
    def decode(index: int) -> image_cache.Decoded:
        with (folder / "decoded").open("ab", buffering=0) as file:
            file.write(b".")
        return image(index), labels(index)

    start.wait(30)
    stored = open_or_build(recipe(decode))
    (folder / f"{os.getpid()}.done").write_text(stored.images.fingerprint())


def test_of_several_processes_one_decodes(tmp_path: Path) -> None:
    context = mp.get_context("fork")
    start = context.Barrier(3)
    workers = [context.Process(target=_count_decodes, args=(tmp_path, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "decoded").stat().st_size == COUNT
    done = [file.read_text() for file in tmp_path.glob("*.done")]
    assert done == [open_or_build(recipe(refuse)).images.fingerprint()] * 3


def test_a_wait_for_another_process_is_told_and_has_an_end(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gam_ray")
    monkeypatch.setattr(image_cache, "_WAIT_SECONDS", 0.1)
    cache.mkdir()
    path = recipe().folder.with_name(f"{recipe().folder.name}.lock")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(path):
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        with pytest.raises(TimeoutError, match=f"another process has held {path} for 0 hours"):
            open_or_build(recipe())
    finally:
        release.set()
        holder.join()
    assert "some images: train: another process decodes it; waiting" in caplog.messages
    assert len(open_or_build(recipe()).images) == COUNT


def test_progress_is_told_with_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gam_ray")
    monkeypatch.setattr(image_cache, "_PROGRESS_SECONDS", 0.0)
    open_or_build(recipe())
    assert "some images: train: 12 of 70 images decoded" in caplog.messages


def test_too_little_space_is_told_before_anything_is_decoded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    with pytest.raises(OSError, match=rf"takes 0.0 GB .*{cache} has 0.0 GB free.*GAM_RAY_CACHE"):
        open_or_build(recipe(refuse))


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"cannot be made: Not a directory. Name another folder"):
        open_or_build(recipe())


def test_the_folder_is_the_variable_then_the_user_s_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/of/the/user")
    monkeypatch.setenv("GAM_RAY_CACHE", "~/mine")
    assert cache_root() == Path("/home/me/mine")
    monkeypatch.setenv("GAM_RAY_CACHE", "")
    assert cache_root() == Path("/of/the/user/gam_ray")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path("/home/me/.cache/gam_ray")


@pytest.mark.parametrize("changed", ["the files", "the size", "the classes"])
def test_a_domain_decodes_again_only_what_has_changed(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = BUILDERS["streets"](tmp_path)
    tree.load().labelled("train")
    with monkeypatch.context() as patch:
        patch.setattr("gam_ray.domains.segmentation.read_image", refuse)
        tree.load().labelled("train")
        options: dict[str, object] = {"size": SIZE, "classes": "cityscapes-19"}
        if changed == "the files":
            for file in (tree.folder / "labels").iterdir():
                write_ids(file, np.full(SIZE, 7))
        elif changed == "the size":
            options["size"] = (6, 8)
        else:
            options["classes"] = "synthia-16"
        with pytest.raises(AssertionError, match="decoded again"):
            tree.load(**options).labelled("train")
    assert len(tree.load(**options).labelled("train")) == 4
    if changed != "the files":  # Both are kept.
        monkeypatch.setattr("gam_ray.domains.segmentation.read_image", refuse)
        assert tree.load().labelled("train").images.shape[2:] == SIZE
