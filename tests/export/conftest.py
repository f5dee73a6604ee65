"""Models that were exported once, from folders of one's own images."""

from pathlib import Path

import numpy as np
import pytest
from exportable import CLASSES, SIZE, Exported, opinionated, provenance, save_network, write_images
from PIL import Image

from gam_ray.config import TaskConfig
from gam_ray.domains import load_pair
from gam_ray.export.writing import export_model


def _export(task: TaskConfig, root: Path, classes: int, seed: int, files: Path) -> Exported:
    network = opinionated(task.network, in_channels=3, classes=classes, seed=seed)
    save_network(network, root / "adapted.pt", in_channels=3, classes=classes)
    described = export_model(
        provenance(task, root / "adapted.pt"),
        root / "models" / "mine",
        data_root=root,
        versions={"torch": "2"},
    )
    _, target = load_pair(task.source, task.target, data_root=root, size=task.size)
    return Exported(root / "models" / "mine", described, network, target, files)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of colour images of many sizes and modes, brought to 28×28."""
    root = tmp_path_factory.mktemp("photos")
    sizes = [(28, 28), (31, 50), (9, 9), (1, 1), (200, 90), (60, 28)]
    for kind in ("left", "right"):
        for split in ("train", "test"):
            write_images(root / "source" / split / kind, sizes[:3], ["RGB"])
    write_images(root / "target" / "train", sizes, ["RGB", "L"])
    write_images(root / "target" / "test", sizes * 2, ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
    task = TaskConfig(
        source="image-folder:source", target="image-folder:target", network="lenet-bn",
        size=(28, 28),
    )  # fmt: skip
    return _export(task, root, 2, 1, root / "target" / "test")


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of images and masks of one size."""
    root = tmp_path_factory.mktemp("streets")
    rng = np.random.default_rng(0)
    for domain in ("source", "target"):
        for split in ("train", "test"):
            folder = root / domain / split
            for path in write_images(folder / "images", [SIZE] * 4, ["RGB"]):
                labels = rng.integers(0, len(CLASSES), SIZE, dtype=np.uint8)
                (folder / "labels").mkdir(exist_ok=True)
                Image.fromarray(labels).save(folder / "labels" / path.name)
        (root / domain / "classes.txt").write_text("\n".join(CLASSES))
    task = TaskConfig(
        source="segmentation-folder:source", target="segmentation-folder:target",
        network="two-layers",
    )  # fmt: skip
    return _export(task, root, len(CLASSES), 5, root / "target" / "test" / "images")
