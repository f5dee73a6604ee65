"""Write an exported model: a folder with the network, what it is, and its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from gam_ray.domains import DataMissingError, Domain
from gam_ray.export.card import model_card
from gam_ray.export.colours import class_colours
from gam_ray.export.description import (
    DESCRIPTION,
    InputDescription,
    ModelDescription,
    OutputDescription,
    write_description,
)
from gam_ray.export.model import (
    INPUT,
    OUTPUT,
    PredictionModel,
    check_files,
    save_onnx,
    save_program,
    to_program,
)
from gam_ray.export.provenance import Provenance
from gam_ray.networks import MatchableNetwork
from gam_ray.training.data import task_domains
from gam_ray.training.trial import load_adapted

CARD = "MODEL_CARD.md"
# Images that the files are held against the network on.
CHECKED_PIXELS = 64 * 28 * 28


def export_model(
    provenance: Provenance, folder: Path, *, data_root: Path | None, versions: Mapping[str, str]
) -> ModelDescription:
    """Write ``model.pt2``, ``model.onnx``, ``model.json`` and ``MODEL_CARD.md``.

    The files are held against the network on held-out images of the target, or on noise where
    its files are not here.

    Args:
        provenance: Where the network comes from.
        folder: Where they go; it appears whole or not at all.
        data_root: Folder of data sets.
        versions: Of Python and packages.

    Raises:
        ValueError: If the folder holds something else, the checkpoint is damaged, or the task's
            domains cannot be had.
        FileNotFoundError: If the trial left no network.
        RuntimeError: If the files give other probabilities than the network.
    """
    _check_replaceable(folder)
    if not provenance.checkpoint.is_file():
        raise FileNotFoundError(
            f"trial {provenance.trial} left no network: {provenance.checkpoint} is not there; "
            "export another one with --trial"
        )
    network = load_adapted(provenance.config, provenance.checkpoint, torch.device("cpu"))
    source, target = task_domains(provenance.config.task, data_root)
    images, checked_on = _images_to_check_on(target)
    model = PredictionModel(network, target.image_shape[1:])
    with _appearing(folder) as draft:
        program = to_program(model, target.image_shape[0])
        save_program(program, draft / "model.pt2")
        save_onnx(program, draft / "model.onnx")
        differences = check_files(model, draft, images)
        described = ModelDescription(
            problem=target.problem,
            network=provenance.config.task.network,
            class_names=source.class_names,
            colours=_colours(source),
            input=_input(network, target),
            output=OutputDescription(name=OUTPUT),
            source=source.name,
            target=target.name,
            study=provenance.study,
            trial=provenance.config.key(),
            checked_on=checked_on,
            differences=differences,
            versions=dict(versions),
        )
        write_description(draft, described)
        (draft / CARD).write_text(model_card(described, provenance), encoding="utf-8")
    return described


def tensor_shapes(described: ModelDescription) -> dict[str, tuple[int, ...]]:
    """Name of the input and of the output → its shape, with -1 for what is free."""
    per_pixel = (-1, -1) if described.problem == "segmentation" else ()
    return {
        described.input.name: (-1, described.input.channels, -1, -1),
        described.output.name: (-1, len(described.class_names), *per_pixel),
    }


def _input(network: MatchableNetwork, target: Domain) -> InputDescription:
    channels, height, width = target.image_shape
    if channels not in (1, 3):
        raise ValueError(
            f"a model of grey or RGB images can be exported, but {target.name!r} has {channels} "
            "channels"
        )
    return InputDescription(
        name=INPUT,
        channels=1 if channels == 1 else 3,
        size=(height, width),
        multiple=network.multiple if network.stride else None,
        resize=target.resize,
    )


def _colours(domain: Domain) -> tuple[tuple[int, int, int], ...] | None:
    return class_colours(domain.class_names) if domain.problem == "segmentation" else None


def _images_to_check_on(target: Domain) -> tuple[Tensor, str]:
    _, height, width = target.image_shape
    count = max(2, CHECKED_PIXELS // (height * width))
    try:
        images = target.unlabelled("held_out").images[:count]
    except DataMissingError:
        generator = torch.Generator().manual_seed(0)
        size = (count, *target.image_shape)
        noise = torch.randint(256, size, generator=generator, dtype=torch.uint8)
        return noise, f"{count} images of noise, since the files of {target.name} were not there"
    return images, f"{len(images)} held-out images of {target.name}"


def _check_replaceable(folder: Path) -> None:
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / DESCRIPTION).is_file():
        raise ValueError(
            f"{folder} holds something else than an exported model, which would be lost; give "
            "another folder with --output"
        )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place once all is in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        draft = Path(aside) / "new"
        draft.mkdir()
        yield draft
        if folder.exists():
            folder.replace(Path(aside) / "old")
        draft.replace(folder)
