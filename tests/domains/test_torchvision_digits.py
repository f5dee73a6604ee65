"""MNIST, USPS and SVHN: where they are found, what is refused, and whose pixels they are."""

import bz2
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import MNIST, SVHN

from gam_ray.domains import DataMissingError, Domain, fixed_permutation, load_domain
from gam_ray.domains.torchvision_digits import Mnist, Svhn, Usps

DATA_ROOT = Path(
    os.environ.get("GAM_RAY_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data"
)
SMALL = 40
LABELS = np.arange(SMALL) % 10


@pytest.fixture(autouse=True)
def _small_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect `SMALL` images a part, and let nothing reach the network."""
    for domain in (Mnist, Usps, Svhn):
        for size in ("training_size", "test_size"):
            monkeypatch.setattr(domain, size, SMALL)
        monkeypatch.setattr(domain, "held_out_size", 10)
    unchecked = {part: [url, file, None] for part, (url, file, _) in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", unchecked)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network in tests")


def some_pixels(side: int) -> np.ndarray:
    """Return dark images with a bright square, uint8 `[SMALL, side, side]`, all different."""
    images = np.zeros((SMALL, side, side), dtype=np.uint8)
    images[:, 4:8, 4:8] = 255
    images[:, 0, 0] = np.arange(SMALL) * 5
    return images


def write_mnist(root: Path, images: np.ndarray | None = None, labels: np.ndarray = LABELS) -> None:
    images = some_pixels(28) if images is None else images
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def libsvm(values: np.ndarray, labels: np.ndarray) -> bytes:
    lines = [
        " ".join([str(label), *(f"{i}:{v:.6g}" for i, v in enumerate(image.ravel(), start=1))])
        for image, label in zip(values, labels, strict=True)
    ]
    return bz2.compress("\n".join(lines).encode())


def write_usps(root: Path, values: np.ndarray | None = None, labels: np.ndarray = LABELS) -> None:
    values = some_pixels(16) / 127.5 - 1 if values is None else values
    root.mkdir(parents=True, exist_ok=True)
    for file in ("usps.bz2", "usps.t.bz2"):
        (root / file).write_bytes(libsvm(values, labels + 1))


def some_photographs() -> np.ndarray:
    """Return bright images with a coloured square, uint8 `[SMALL, 32, 32, 3]`, all different."""
    images = np.full((SMALL, 32, 32, 3), 220, dtype=np.uint8)
    images[:, 8:24, 8:24] = (0, 30, 10)
    images[:, :4, :4, 0] = np.arange(SMALL)[:, None, None] * 5
    return images


def write_svhn(
    root: Path, images: np.ndarray | None = None, labels: np.ndarray = LABELS, part: str = "*"
) -> None:
    images = some_photographs() if images is None else images
    root.mkdir(parents=True, exist_ok=True)
    published = {
        "X": images.transpose(1, 2, 3, 0),
        "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
    }
    for file in ("train_32x32.mat", "test_32x32.mat"):
        if part in {"*", file}:
            savemat(root / file, published)


@pytest.mark.parametrize("folder", ["", "digits"])
@pytest.mark.parametrize(
    ("name", "write"), [("mnist", write_mnist), ("usps", write_usps), ("svhn", write_svhn)]
)
def test_files_are_found_in_the_root_and_in_digits(
    tmp_path: Path, folder: str, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / folder)
    domain = load_domain(name, data_root=tmp_path)
    parts = {split: domain.labelled(split) for split in ("train", "held_out", "test")}
    assert [len(part) for part in parts.values()] == [30, 10, 40]
    assert torch.equal(parts["test"].labels, torch.from_numpy(LABELS))
    assert torch.equal(
        parts["held_out"].labels, torch.from_numpy(LABELS)[fixed_permutation(40)[:10]]
    )


def test_missing_files_are_told_with_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    write_usps(tmp_path / "digits")
    (tmp_path / "digits" / "usps.t.bz2").unlink()
    with pytest.raises(DataMissingError) as error:
        load_domain("usps", data_root=tmp_path).unlabelled("train")
    text = str(error.value)
    assert f"Expected in {tmp_path / 'digits'} or in {tmp_path}:\n  usps.bz2\n  usps.t.bz2" in text
    assert f"  {tmp_path / 'digits'}: usps.bz2\n" in text
    assert f"  {tmp_path}: digits\n" in text
    assert "--data-root" in text
    assert "GAM_RAY_DATA" in text
    assert "no network in tests" in text
    assert isinstance(error.value.__cause__, OSError)


def test_a_data_root_that_does_not_exist_is_told_as_it_was(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(DataMissingError, match=f"{absent}: .No such file or directory."):
        load_domain("mnist", data_root=absent).labelled("test")


def test_long_listings_are_cut(tmp_path: Path) -> None:
    for number in range(15):
        (tmp_path / f"{number:02}").touch()
    with pytest.raises(DataMissingError, match=r"00, 01, .* 11 and 3 more"):
        load_domain("mnist", data_root=tmp_path).labelled("test")


def test_a_data_root_that_cannot_be_made_is_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataMissingError, match="Not a directory"):
        load_domain("mnist", data_root=tmp_path / "file").labelled("test")


def test_a_download_ends_in_digits_and_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def download(self: MNIST) -> None:
        limits.append(socket.getdefaulttimeout())
        write_mnist(Path(self.root))

    monkeypatch.setattr(MNIST, "download", download)
    assert len(load_domain("mnist", data_root=tmp_path).labelled("test")) == SMALL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["MNIST"]
    assert None not in limits
    assert socket.getdefaulttimeout() is None


def test_an_interrupted_download_leaves_nothing_to_be_taken_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_download(url: str, root: str, filename: str, md5: str) -> None:
        del url, md5
        (Path(root) / filename).write_bytes(libsvm(some_pixels(16) / 127.5 - 1, LABELS + 1)[:100])
        raise OSError("connection lost")

    monkeypatch.setattr(sys.modules["torchvision.datasets.usps"], "download_url", half_download)
    with pytest.raises(DataMissingError, match="connection lost"):
        load_domain("usps", data_root=tmp_path).labelled("test")
    assert list((tmp_path / "digits").iterdir()) == []


def test_a_download_leaves_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, root: str, filename: str, md5: str) -> None:
        del url, md5
        (Path(root) / filename).write_bytes(libsvm(some_pixels(16) / 127.5 - 1, LABELS + 1))

    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "usps.bz2").write_bytes(b"the user's own")
    monkeypatch.setattr(sys.modules["torchvision.datasets.usps"], "download_url", download)
    domain = load_domain("usps", data_root=tmp_path)
    assert len(domain.labelled("test")) == SMALL
    assert (tmp_path / "digits" / "usps.bz2").read_bytes() == b"the user's own"
    with pytest.raises(ValueError, match=r"usps \(training part\) in .* cannot be read"):
        domain.labelled("train")


def load_mnist(root: Path, images: np.ndarray, labels: np.ndarray = LABELS) -> None:
    write_mnist(root, images, labels)
    load_domain("mnist", data_root=root).labelled("test")


def test_images_scaled_to_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mnist \(test part\) in .* brightest pixel of these is 1"
    ):
        load_mnist(tmp_path, some_pixels(28) // 255)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some_pixels(28) // 2, "those of mnist .test part. in .* range over 0-127"),
        (np.maximum(some_pixels(28), 9), "range over 9-255"),
        (255 - some_pixels(28), "median pixel of mnist .* is 255: they were inverted"),
        (some_pixels(28)[:30], "has 40 images, but 30 were read"),
    ],
)
def test_digits_of_another_range_polarity_or_number_are_refused(
    tmp_path: Path, images: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_mnist(tmp_path, images, LABELS[: len(images)])


def test_usps_in_zero_to_one_is_refused(tmp_path: Path) -> None:
    write_usps(tmp_path, some_pixels(16) / 255)
    with pytest.raises(ValueError, match="range over 127-255"):
        load_domain("usps", data_root=tmp_path).labelled("test")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS - 1, "usps .* but one is -1"),
        (LABELS + 1, r"0 to 9, but those of .* \[1, 2, .* 10\]"),
    ],
)
def test_usps_labels_that_start_elsewhere_are_refused(
    tmp_path: Path, labels: np.ndarray, message: str
) -> None:
    write_usps(tmp_path, labels=labels)
    with pytest.raises(ValueError, match=message):
        load_domain("usps", data_root=tmp_path).labelled("test")


@pytest.mark.parametrize("labels", [LABELS // 2, LABELS + 2])
def test_svhn_labels_other_than_the_ten_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_svhn(tmp_path, labels=labels)
    with pytest.raises(ValueError, match=r"0 to 9, but those of svhn \(test part\)"):
        load_domain("svhn", data_root=tmp_path).labelled("test")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some_photographs() // 2, "those of svhn .test part. in .* range over 9-109"),
        (some_photographs() // 2 + 128, "range over 137-237"),
        (some_photographs() // 255, "svhn .test part. .* brightest pixel of these is 0"),
    ],
)
def test_svhn_of_another_range_is_refused(tmp_path: Path, images: np.ndarray, message: str) -> None:
    write_svhn(tmp_path, images)
    with pytest.raises(ValueError, match=message):
        load_domain("svhn", data_root=tmp_path).labelled("test")


def test_svhn_may_have_either_polarity(tmp_path: Path) -> None:
    for folder, images in (("light", some_photographs()), ("dark", 220 - some_photographs())):
        write_svhn(tmp_path / folder, images)
        load_domain("svhn", data_root=tmp_path / folder).labelled("test")


def test_svhn_is_the_files_pixels_in_grey_and_resized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, of which the last is shorter, as it is at its full size."""
    monkeypatch.setattr("gam_ray.domains.torchvision_digits._CHUNK", 15)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SMALL, 32, 32, 3), dtype=np.uint8)
    write_svhn(tmp_path, images)
    part = load_domain("svhn", data_root=tmp_path).labelled("test")
    grey = np.floor(images @ np.array([0.2989, 0.587, 0.114])).astype(np.uint8)
    for row in range(SMALL):
        expected = Image.fromarray(grey[row]).resize((28, 28), Image.Resampling.BILINEAR)
        assert np.abs(part.images[row, 0].numpy() - np.asarray(expected, dtype=int)).max() <= 1


def test_svhn_whose_checksum_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path)
    url, file, _ = SVHN.split_list["test"]
    monkeypatch.setitem(SVHN.split_list, "test", [url, file, "0" * 32])
    with pytest.raises(ValueError, match=r"svhn \(test part\) .* cannot be read.*corrupted"):
        load_domain("svhn", data_root=tmp_path).labelled("test")


def test_svhn_is_downloaded_in_its_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, root: str, filename: str, md5: str | None) -> None:
        assert url.endswith(filename)
        del md5
        write_svhn(Path(root), part=filename)

    monkeypatch.setattr(sys.modules["torchvision.datasets.svhn"], "download_url", download)
    assert len(load_domain("svhn", data_root=tmp_path).labelled("test")) == SMALL
    found = sorted(path.name for path in (tmp_path / "digits").iterdir())
    assert found == ["test_32x32.mat", "train_32x32.mat"]


def test_svhn_that_is_missing_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"train_32x32\.mat\n  test_32x32\.mat") as error:
        load_domain("svhn", data_root=tmp_path).unlabelled("train")
    assert "GAM_RAY_DATA" in str(error.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_usps(tmp_path)
    write_svhn(tmp_path)
    damaged = [*tmp_path.glob("MNIST/raw/*"), *tmp_path.glob("usps*"), *tmp_path.glob("*.mat")]
    assert len(damaged) == 8
    for file in damaged:
        file.write_bytes(file.read_bytes()[:-20])
    for name in ("mnist", "usps", "svhn"):
        for split in ("train", "test"):
            with pytest.raises(ValueError, match=f"{name} .* in {tmp_path}"):
                load_domain(name, data_root=tmp_path).labelled(split)


def stored(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Domain, Path]:
    """Return a domain as published and the folder of its files, or skip."""
    monkeypatch.undo()
    domain = load_domain(name, data_root=DATA_ROOT)
    root = domain._find()
    if root is None:
        pytest.skip(f"{name} is not in {DATA_ROOT}; name its folder by GAM_RAY_DATA")
    return domain, root


def test_mnist_is_the_raw_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, root = stored("mnist", monkeypatch)
    raw = root / "MNIST" / "raw"
    images = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    labels = np.fromfile(raw / "train-labels-idx1-ubyte", np.uint8)[8:]
    order = fixed_permutation(60_000).numpy()
    for split, rows in (("held_out", order[:5_000]), ("train", order[5_000:])):
        part = domain.labelled(split)
        assert np.array_equal(part.images[:, 0].numpy(), images[rows])
        assert np.array_equal(part.labels.numpy(), labels[rows])


def test_usps_is_the_libsvm_text(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, root = stored("usps", monkeypatch)
    part = domain.labelled("test")
    lines = bz2.decompress((root / "usps.t.bz2").read_bytes()).decode().splitlines()
    assert len(lines) == len(part)
    for row in range(0, len(lines), 50):
        label, *entries = lines[row].split()
        values = np.array([float(entry.partition(":")[2]) for entry in entries]).reshape(16, 16)
        pixels = np.floor((values + 1) / 2 * 255 + 1e-3).astype(np.uint8)
        expected = Image.fromarray(pixels).resize((28, 28), Image.Resampling.BILINEAR)
        assert part.labels[row] == int(label) - 1
        assert np.abs(part.images[row, 0].numpy() - np.asarray(expected, dtype=int)).max() <= 1
