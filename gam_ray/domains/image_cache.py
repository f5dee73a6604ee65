"""Decoded images and labels in files that are mapped into memory.

A split of image files is decoded once. Its pixels stay on disk: mapped, they take memory only as
long as the system has some to spare, every process of a machine shares them, and an epoch decodes
nothing. What is mapped may be written to, but the writes reach neither the file nor other
processes; nobody should.

The files are in `cache_root()`. Nothing there is needed: what is removed is made again.
"""

import hashlib
import itertools
import json
import logging
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from gam_ray.domains.base import VOID, LabelledImages, UnlabelledImages, add_to_digest
from gam_ray.domains.image_files import decoding_threads

_LOG = logging.getLogger(__name__)

_VERSION = 1  # Raise it when the same files would be decoded to other pixels.
_PROGRESS_SECONDS = 5.0
_WAIT_SECONDS = 6 * 3600.0
_CHUNK = 8  # Images a thread decodes between two writes.
# A private map counts as memory that may be needed, unless it says that nothing will be written.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0

Decoded = tuple[np.ndarray, np.ndarray | None]
"""An image uint8 `[C, H, W]`, and its labels uint8 `[H, W]` or None."""


@dataclass(frozen=True, eq=False)
class StoredUnlabelledImages(UnlabelledImages):
    """Images that were checked and digested when they were stored: neither is done again.

    Attributes:
        digest: What `fingerprint` returns.
    """

    digest: str

    def __post_init__(self) -> None:
        """Check nothing."""

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the images' shape and bytes."""
        return self.digest


@dataclass(frozen=True, eq=False)
class StoredLabelledImages(LabelledImages):
    """Images and labels that were checked and digested when they were stored.

    Attributes:
        digest: What `fingerprint` returns.
        images_digest: What `without_labels().fingerprint` returns.
    """

    digest: str
    images_digest: str

    def __post_init__(self) -> None:
        """Check nothing."""

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of both tensors' shapes and bytes."""
        return self.digest

    def without_labels(self) -> UnlabelledImages:
        """Return the same images (the same memory) without their labels."""
        return StoredUnlabelledImages(self.images, self.images_digest)


@dataclass(frozen=True)
class Recipe:
    """What is stored, and how it is made.

    Attributes:
        title: What it is, for people, in the folder's name, in logs and in errors.
        content: Whatever the pixels depend on, such as files, sizes and mappings. Another content
            is another folder.
        count: How many images there are.
        shape: `(C, H, W)` of an image.
        labelled: Whether each has labels.
        decode: Makes the image at an index, and its labels; called from several threads.
    """

    title: str
    content: str
    count: int
    shape: tuple[int, int, int]
    labelled: bool
    decode: Callable[[int], Decoded]

    @property
    def folder(self) -> Path:
        """Where it is stored."""
        key = hashlib.sha256(f"{_VERSION}\n{self.title}\n{self.content}".encode()).hexdigest()
        plain = "".join(c if c.isalnum() else "-" for c in self.title)
        return cache_root() / f"{plain[:60]}-{key[:20]}"

    @property
    def image_bytes(self) -> int:
        """Size of the images' file."""
        return self.count * int(np.prod(self.shape))

    @property
    def label_bytes(self) -> int:
        """Size of the labels' file, where there is one."""
        return self.count * int(np.prod(self.shape[1:]))


@dataclass(frozen=True)
class _Facts:
    """What is written beside the pixels, so that nobody needs to read them all to know it."""

    count: int
    shape: list[int]
    labelled: bool
    digest: str
    images_digest: str
    pixels: list[int]


@dataclass(frozen=True, eq=False)
class Stored:
    """What was stored.

    Attributes:
        images: The images, with labels where there are some.
        pixels: How many pixels each label has, by label 0-255; empty without labels.
    """

    images: StoredLabelledImages | StoredUnlabelledImages
    pixels: tuple[int, ...]


def cache_root() -> Path:
    """Return the folder of decoded images.

    It is the environment variable GAM_RAY_CACHE, if set and not empty; else `gam_ray` in
    XDG_CACHE_HOME; else `~/.cache/gam_ray`.
    """
    own = os.environ.get("GAM_RAY_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gam_ray"


def open_or_build(recipe: Recipe) -> Stored:
    """Return what a recipe makes, decoding it if it is not stored or is damaged.

    Several processes may ask for it at once: one decodes, the others wait.

    Raises:
        ValueError: The pixels are no images or labels; whatever `decode` raises, unchanged.
        OSError: The folder cannot be written, or has too little space.
        TimeoutError: Another process has been decoding it for six hours.
    """
    stored = _open(recipe)
    if stored is not None:
        return stored
    folder = recipe.folder
    _make_root(folder.parent)
    with _alone(folder.with_name(f"{folder.name}.lock"), recipe.title):
        stored = _open(recipe)  # Another process may have been first.
        return stored if stored is not None else _build(recipe)


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Decoded images are kept in {root}, but it cannot be made: {error.strerror}. Name "
            "another folder by the environment variable GAM_RAY_CACHE."
        ) from error


@contextmanager
def _alone(path: Path, title: str) -> Iterator[None]:
    """Hold a lock, so that one process decodes and the others wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.info("%s: another process decodes it; waiting", title)
        _wait_for(lock, path, title)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, path: Path, title: str) -> None:
    try:
        lock.acquire(timeout=_WAIT_SECONDS)
    except Timeout:
        raise TimeoutError(
            f"{title}: another process has held {path} for {_WAIT_SECONDS / 3600:.0f} hours. End "
            "that process, or name another folder by the environment variable GAM_RAY_CACHE."
        ) from None


def _open(recipe: Recipe) -> Stored | None:
    """Return what is stored, or None if there is nothing or it is damaged."""
    folder = recipe.folder
    try:
        facts = _Facts(**json.loads((folder / "facts.json").read_text()))
        sizes = [path.stat().st_size for path in _files(folder, recipe)]
    except (OSError, ValueError, TypeError):
        return None
    promised = (recipe.count, recipe.shape, recipe.labelled)
    kept = (facts.count, tuple(facts.shape), facts.labelled)
    if kept != promised or sizes != _sizes(recipe):
        return None
    return _stored(folder, recipe, facts)


def _files(folder: Path, recipe: Recipe) -> list[Path]:
    return [folder / "images.u8", folder / "labels.u8"][: 2 if recipe.labelled else 1]


def _sizes(recipe: Recipe) -> list[int]:
    return [recipe.image_bytes, recipe.label_bytes][: 2 if recipe.labelled else 1]


def _stored(folder: Path, recipe: Recipe, facts: _Facts) -> Stored:
    images, *labels = _map(folder, recipe)
    if not labels:
        return Stored(StoredUnlabelledImages(images, facts.digest), ())
    part = StoredLabelledImages(images, labels[0], facts.digest, facts.images_digest)
    return Stored(part, tuple(facts.pixels))


def _map(folder: Path, recipe: Recipe) -> list[Tensor]:
    shapes = [(recipe.count, *recipe.shape), (recipe.count, *recipe.shape[1:])]
    return [
        _mapped(path).view(shape)
        for path, shape in zip(_files(folder, recipe), shapes, strict=False)
    ]


def _mapped(path: Path) -> Tensor:
    with path.open("rb") as file:
        pixels = mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return torch.frombuffer(pixels, dtype=torch.uint8)


def _build(recipe: Recipe) -> Stored:
    """Decode into a folder aside, check it, and move it to its place whole."""
    folder = recipe.folder
    aside = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(aside, ignore_errors=True)  # Left by a process that was killed.
    aside.mkdir()
    try:
        _check_space(recipe, aside)
        pixels = _decode_all(recipe, aside)
        facts = _facts(recipe, aside, pixels)
        (aside / "facts.json").write_text(json.dumps(asdict(facts)))
        if folder.exists():
            _LOG.warning("%s: %s was damaged and is replaced", recipe.title, folder)
            shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _stored(folder, recipe, facts)


def _check_space(recipe: Recipe, folder: Path) -> None:
    needed, free = sum(_sizes(recipe)), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{recipe.title} takes {needed / 1e9:.1f} GB when decoded, but {folder.parent} has "
            f"{free / 1e9:.1f} GB free. Name a folder with more by the environment variable "
            "GAM_RAY_CACHE, or ask for a smaller size."
        )


def _decode_all(recipe: Recipe, folder: Path) -> list[int]:
    """Write the pixels of all images and labels; return how many pixels each label has."""
    pixels = np.zeros(VOID + 1, dtype=np.int64)
    _LOG.info("%s: decoding %d images to %s", recipe.title, recipe.count, folder.parent)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in _files(folder, recipe)]
        for image, labels in _with_progress(_decoded(recipe), recipe):
            _write(files[0], image, recipe.shape)
            if labels is not None:
                _write(files[1], labels, recipe.shape[1:])
                pixels += np.bincount(labels.ravel(), minlength=VOID + 1)
    return pixels.tolist() if recipe.labelled else []


def _write(file: IO[bytes], pixels: np.ndarray, shape: Sequence[int]) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape == tuple(shape)
    file.write(np.ascontiguousarray(pixels).data)


def _decoded(recipe: Recipe) -> Iterator[Decoded]:
    threads = decoding_threads()
    indices = iter(range(recipe.count))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        while chunk := list(itertools.islice(indices, threads * _CHUNK)):
            yield from pool.map(recipe.decode, chunk)


def _with_progress(decoded: Iterator[Decoded], recipe: Recipe) -> Iterator[Decoded]:
    told = time.monotonic()
    for done, each in enumerate(decoded, start=1):
        yield each
        if time.monotonic() - told >= _PROGRESS_SECONDS:
            _LOG.info("%s: %d of %d images decoded", recipe.title, done, recipe.count)
            told = time.monotonic()


def _facts(recipe: Recipe, folder: Path, pixels: list[int]) -> _Facts:
    """Check what was written, as any images are checked, and digest it."""
    images, *labels = _map(folder, recipe)
    try:
        LabelledImages(images, labels[0]) if labels else UnlabelledImages(images)
    except ValueError as error:
        raise ValueError(f"{recipe.title} cannot be used. {error}") from error
    digest = hashlib.sha256()
    add_to_digest(digest, images)
    images_digest = digest.hexdigest()
    for each in labels:
        add_to_digest(digest, each)
    return _Facts(
        count=recipe.count,
        shape=list(recipe.shape),
        labelled=recipe.labelled,
        digest=digest.hexdigest(),
        images_digest=images_digest,
        pixels=pixels,
    )
