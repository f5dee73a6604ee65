"""What a program must know to use an exported model: the file ``model.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gam_ray.config.base import ConfigModel
from gam_ray.domains.base import Problem, Resize
from gam_ray.domains.street_classes import Colour

DESCRIPTION = "model.json"


class InputDescription(ConfigModel):
    """The one input of both programs."""

    name: str
    """Of the tensor."""
    layout: Literal["NCHW"] = "NCHW"
    """Images, channels, rows, columns."""
    type: Literal["uint8"] = "uint8"
    """Of a value."""
    range: tuple[Literal[0], Literal[255]] = (0, 255)
    """Of the values: scaling is inside."""
    channels: Literal[1, 3]
    """1 is grey, 3 is RGB."""
    size: tuple[int, int]
    """Height and width that the network was trained on."""
    multiple: int | None
    """Height and width may be any multiple of this, from two times on; null: any size, which is
    stretched to `size` inside."""
    resize: Resize
    """What stretched images to `size` for training, bilinear and antialiased."""


class OutputDescription(ConfigModel):
    """The one output: probabilities, [N, classes] or [N, classes, H, W]."""

    name: str
    """Of the tensor."""
    type: Literal["float32"] = "float32"
    """Of a value."""


class ModelDescription(ConfigModel):
    """What an exported model is."""

    format: Literal[1] = 1
    """Of this file; keys are added, never renamed or removed."""
    problem: Problem
    """Whether an image or a pixel has a class."""
    network: str
    """Name of the architecture."""
    class_names: tuple[str, ...]
    """Class k is the k-th."""
    colours: tuple[Colour, ...] | None
    """Of the classes in masks; null for classification."""
    input: InputDescription
    output: OutputDescription
    source: str
    """The labelled domain that the network learned from."""
    target: str
    """The unlabelled domain that it was adapted to."""
    study: str | None
    """Name of the study; null for a trial without one."""
    trial: str
    """Key of the trial."""
    checked_on: str
    """The images on which the files were held against the network."""
    differences: dict[str, float]
    """File → the largest difference of a probability there."""
    versions: dict[str, str]
    """Of Python and packages."""


def write_description(folder: Path, description: ModelDescription) -> None:
    """Write ``model.json`` into a folder."""
    text = json.dumps(description.to_mapping(), indent=2, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> ModelDescription:
    """What `write_description` wrote.

    Raises:
        ValueError: If the folder has none, or one that is damaged or of a newer gam_ray.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {DESCRIPTION}, so it is no exported model; `gam-ray export STUDY` "
            "makes one"
        )
    try:
        return ModelDescription.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{file} is damaged, or of a newer gam-ray; export the model again: {error}"
        ) from error
