"""Tiny copies of the data sets of segmentation, each in its own layout."""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gam_ray.domains import load_domain
from gam_ray.domains.gta5 import Gta5
from gam_ray.domains.segmentation import SegmentationDomain
from gam_ray.domains.street_classes import CITYSCAPES_IDS

SIZE = (12, 16)
"""Height and width of every file."""

FOLDER_CLASSES = ("sky", "ground", "thing")

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Tree:
    """A data set: what is in its files, by split (train and held out together)."""

    name: str
    root: Path
    folder: Path
    training: list[Pair]
    test: list[Pair]

    @property
    def plain_name(self) -> str:
        """The name without an argument."""
        return self.name.partition(":")[0]

    @property
    def pairs(self) -> list[Pair]:
        """Every image and its ids."""
        return self.training + self.test

    def load(self, **options: object) -> SegmentationDomain:
        """The domain, at the files' size unless another is given."""
        domain = load_domain(self.name, data_root=self.root, **{"size": SIZE, **options})
        assert isinstance(domain, SegmentationDomain)
        return domain

    def label_folders(self) -> list[Path]:
        """The folders of labels."""
        names = {"labels", "LABELS", "gtFine", "trainannot", "valannot", "testannot"}
        return sorted(path for path in self.folder.rglob("*") if path.name in names)


def some_pairs(count: int, ids: Sequence[int], seed: int = 0) -> list[Pair]:
    """Images of noise, and labels in which every id occurs."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        labels = rng.permutation(np.resize(np.array(ids), SIZE[0] * SIZE[1])).reshape(SIZE)
        pairs.append((rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), labels))
    return pairs


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_ids(path: Path, ids: np.ndarray) -> None:
    write_image(path, ids.astype(np.uint8))


def write_palette(path: Path, ids: np.ndarray) -> None:
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(sum((colour for _, colour in CITYSCAPES_IDS.values()), ()))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    assert Image.open(path).mode == "P"


def write_colours(path: Path, ids: np.ndarray) -> None:
    colours = np.array([colour for _, colour in CITYSCAPES_IDS.values()], dtype=np.uint8)
    write_image(path, colours[ids])


def write_sixteen_bits(path: Path, ids: np.ndarray) -> None:
    """A PNG of three channels of 16 bits: class, instance, nothing. Pillow writes none."""
    height, width = ids.shape
    channels = np.stack([ids, np.arange(ids.size).reshape(ids.shape) + 250, 0 * ids], axis=-1)
    bytes_ = channels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Each row as its difference to the row above, as PNGs usually have it.
    rows = b"".join(b"\2" + row.tobytes() for row in np.diff(bytes_, axis=0, prepend=np.uint8(0)))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def write_folders(
    pairs: list[Pair],
    images: Path,
    labels: Path,
    write: Callable[[Path, np.ndarray], None] = write_ids,
    names: str = "{:05}",
) -> None:
    """Images and labels of the same names in two folders."""
    for number, (pixels, ids) in enumerate(pairs):
        write_image(images / f"{names.format(number)}.png", pixels)
        write(labels / f"{names.format(number)}.png", ids)


def gta5(root: Path, write: Callable[[Path, np.ndarray], None] = write_palette) -> Tree:
    pairs, folder = some_pairs(9, range(35)), root / "gta5"
    write_folders(pairs, folder / "images", folder / "labels", write)
    return Tree("gta5", root, folder, pairs, [])


def streets(root: Path) -> Tree:
    pairs, folder = some_pairs(9, range(34)), root / "streets"
    write_folders(pairs, folder / "images", folder / "labels")
    return Tree("streets", root, folder, pairs, [])


def synthia(root: Path) -> Tree:
    pairs, folder = some_pairs(9, range(23)), root / "synthia"
    write_folders(pairs, folder / "RGB", folder / "GT" / "LABELS", write_sixteen_bits, "{:07}")
    return Tree("synthia", root, folder, pairs, [])


def camvid(root: Path) -> Tree:
    folder = root / "camvid"
    train, val, test = (some_pairs(count, range(12), count) for count in (5, 2, 3))
    for part, pairs in (("train", train), ("val", val), ("test", test)):
        write_folders(pairs, folder / part, folder / f"{part}annot", names="0001TP_{:06}")
    return Tree("camvid", root, folder, train + val, test)


def cityscapes(root: Path) -> Tree:
    folder = root / "cityscapes"
    train, val = some_pairs(7, range(34)), some_pairs(3, range(34), 1)
    for part, pairs in (("train", train), ("val", val)):
        for number, (pixels, ids) in enumerate(pairs):
            city = ("aachen", "bochum")[number % 2]
            stem = f"{part}/{city}/{city}_{number:06}_000019"
            write_image(folder / "leftImg8bit" / f"{stem}_leftImg8bit.png", pixels)
            write_ids(folder / "gtFine" / f"{stem}_gtFine_labelIds.png", ids)
            write_colours(folder / "gtFine" / f"{stem}_gtFine_color.png", ids)
    return Tree("cityscapes", root, folder, train, val)


def segmentation_folder(root: Path) -> Tree:
    folder = root / "my" / "scenes"
    train, test = some_pairs(7, (0, 1, 2, 255)), some_pairs(3, (0, 1, 2, 255), 1)
    for part, pairs in (("train", train), ("test", test)):
        write_folders(pairs, folder / part / "images", folder / part / "labels")
    (folder / "classes.txt").write_text("\n".join(FOLDER_CLASSES))
    return Tree("segmentation-folder:my/scenes", root, folder, train, test)


BUILDERS: dict[str, Callable[[Path], Tree]] = {
    "camvid": camvid,
    "cityscapes": cityscapes,
    "gta5": gta5,
    "segmentation-folder": segmentation_folder,
    "streets": streets,
    "synthia": synthia,
}


def hold_out_few(patch: pytest.MonkeyPatch) -> None:
    """Let the built-in domains be as small as these."""
    from gam_ray.domains.cityscapes import Cityscapes
    from gam_ray.domains.streets import Streets
    from gam_ray.domains.synthia import Synthia

    for domain in (Gta5, Streets, Synthia):
        patch.setattr(domain, "held_out_size", 2)
        patch.setattr(domain, "test_size", 3)
    patch.setattr(Cityscapes, "held_out_size", 2)
