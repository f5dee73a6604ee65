"""Where an exported network comes from, as its card tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gam_ray.config import ObjectiveConfig, TrialConfig
from gam_ray.selection.guard import guard_causes
from gam_ray.training.adapting import ADAPTED
from gam_ray.training.single import OUTCOME


@dataclass(frozen=True)
class Provenance:
    """Where a network comes from.

    Attributes:
        config: Of its trial.
        checkpoint: The file that has it.
        study: The study's name; None for a trial without one.
        trial: The trial's name for people.
        choice: How it was chosen, a sentence each.
        by_oracle: Whether target labels chose it.
        causes: Why the guard or a constraint leaves it out; empty if they do not.
        scores: Label-free scores by name, of the report whose network this is.
        oracle: What target labels say of it, by split; None where there are none.
    """

    config: TrialConfig
    checkpoint: Path
    study: str | None
    trial: str
    choice: tuple[str, ...]
    by_oracle: bool
    causes: tuple[str, ...]
    scores: Mapping[str, float]
    oracle: Mapping[str, float] | None


def of_single_trial(folder: Path) -> Provenance:
    """Where the network of a trial comes from that `gam-ray train` ran in `folder`.

    Raises:
        ValueError: If there is no such trial, or it has not ended.
    """
    file = folder / OUTCOME
    if not file.is_file():
        raise ValueError(
            f"{folder} is neither a study nor a trial that `gam-ray train` has finished; give a "
            "study's file, its folder or its name, or the folder of such a trial"
        )
    outcome = json.loads(file.read_text(encoding="utf-8"))
    return Provenance(
        config=TrialConfig.from_mapping(outcome["config"]),
        checkpoint=folder / ADAPTED,
        study=None,
        trial=outcome["key"],
        choice=("It is one trial, run by `gam-ray train`: its settings were given, not chosen.",),
        by_oracle=False,
        causes=guard_causes(outcome["metrics"], label_shift=ObjectiveConfig().label_shift),
        scores=outcome["scores"],
        oracle=outcome["oracle"],
    )
