"""Checkpoints: plain tensors, written whole or not at all, read without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and containers of them to `file`, durably and in one go."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


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
