"""Folders of images as a user has them: mixed formats, modes and sizes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from gam_ray.domains import LabelledDomain, load_domain

FORMS = (("png", "L", 28), ("jpg", "RGB", 36), ("png", "RGBA", 20), ("bmp", "L", 28))


def write_image(file: Path, *, mode: str = "L", size: tuple[int, int] = (28, 28)) -> None:
    """Write noise; `size` is (height, width)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(file.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(file)


def write_images(folder: Path, names: Iterable[str], **options: object) -> None:
    """Write images of noise by their names."""
    for name in names:
        write_image(folder / name, **options)  # type: ignore[arg-type]


def write_domain(folder: Path, name: str, count: int, *, by_class: bool) -> None:
    """Write images of a domain as files of several formats, modes and sizes."""
    domain = load_domain(name)
    assert isinstance(domain, LabelledDomain)
    part = domain.labelled("train")
    for row in range(count):
        suffix, mode, side = FORMS[row % len(FORMS)]
        label = domain.class_names[int(part.labels[row])] if by_class else ""
        file = folder / label / f"{row}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(part.images[row, 0].numpy()).convert(mode)
        image.resize((side, side)).save(file)


def write_frames(folder: Path, count: int, *, labels: str | None = "labels", ids: int = 2) -> None:
    """Write frames of 48×64 with, unless `labels` is None, the class of each pixel."""
    for row in range(count):
        write_image(folder / "images" / f"{row}.jpg", mode="RGB", size=(48, 64))
        if labels:
            (folder / labels).mkdir(exist_ok=True)
            pixels = np.zeros((48, 64), dtype=np.uint8)
            pixels[24:] = row % ids
            pixels[0] = 255
            Image.fromarray(pixels).save(folder / labels / f"{row}.png")
    if labels:
        (folder / "classes.txt").write_text("sky\nground\n")
