"""Checkpoints: plain tensors, written whole or not at all, read without unpickling code."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and containers of them to `file`, durably and in one go."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def save_next(file: Path, state: dict[str, Any]) -> None:
    """`save_checkpoint`, and the one before stays beside it, for `load_newest`."""
    if file.exists():
        file.replace(_before(file))
    save_checkpoint(file, state)


def load_newest(file: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest of what `save_next` wrote that is whole; None if there is none.

    What is damaged is told in the log: training goes on from before it, or begins anew, and comes
    to the same.
    """
    for each in (file, _before(file)):
        try:
            return load_checkpoint(each, device)
        except FileNotFoundError:
            continue
        except ValueError as error:
            logger.warning("%s; what was before it is used", error)
    return None


def _before(file: Path) -> Path:
    return file.with_name(f"{file.name}.before")


def load_checkpoint(file: Path, device: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` wrote, with tensors on `device`.

    Raises:
        ValueError: If the file is damaged, naming it.
    """
    try:
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises what pickle and zipfile do
        raise ValueError(f"the checkpoint {file} is damaged ({error}); delete it") from error
    return state
