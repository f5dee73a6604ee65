"""One trial from its file, in this process: no search, no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from gam_ray.adaptation import rank
from gam_ray.config import TrialConfig, load_trial_config
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.trial import Place, run_trial

OUTCOME = "outcome.json"
"""File in a trial's folder: what `Trial.run` returned."""


class _LastReport:
    """Keeps the newest report and says what happens."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.newest: Report | None = None

    def report(self, report: Report) -> Verdict:
        """Take a report; always go on, with the newest network."""
        self.newest = report
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far the stage is."""
        self._tell(f"{stage}: {done}/{total}")

    def is_to_pause(self) -> bool:
        """Never: who ends this process ends the trial, which goes on from its last report."""
        return False


class Trial:
    """One configuration, run in this process: no search, no Ray.

    Example:
        ::

            found = Trial.load("jobs/trial.yaml").run()
            print(found["scores"]["class_ami"], found["checkpoint"])

    Args:
        config: The trial.
        data_root: Folder of data sets; by default ``GAM_RAY_DATA`` or ``./data``.
    """

    def __init__(self, config: TrialConfig, *, data_root: Path | None = None) -> None:
        self.config = config
        self._data_root = data_root

    @classmethod
    def load(cls, file: Path | str, *, data_root: Path | None = None) -> Self:
        """Read a trial file.

        Raises:
            ConfigError: Naming all problems of the file.
        """
        return cls(load_trial_config(Path(file)), data_root=data_root)

    def run(
        self, *, folder: Path | None = None, tell: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Run the trial to its end, from its checkpoint if there is one; also under ``torchrun``.

        Args:
            folder: Of the trial's files, the outcome among them; by default ``trials/KEY`` here.
            tell: Told of progress, a line each.

        Returns:
            ``key``, ``config``, ``step``, ``scores`` (label-free, by name), ``metrics``,
            ``oracle`` {split: accuracy in [0, 1]} or None, ``checkpoint``.

        Raises:
            ValueError: If settings do not go together.
            DataMissingError: If the task's data are not there.
            DivergedError: If a loss is no longer finite.
        """
        config = self.config
        folder = (folder or Path("trials") / config.key()).absolute()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        reporter = _LastReport(tell or _say_nothing)
        place = Place(folder, folder.parent / ".sources", self._data_root, device)
        outcome = run_trial(config, place, reporter)
        assert reporter.newest is not None or rank() > 0
        metrics = reporter.newest.metrics if reporter.newest else {}
        result = {
            "key": config.key(),
            "config": config.to_mapping(),
            "step": outcome.step,
            "scores": {k.removeprefix("score/"): v for k, v in metrics.items() if "score/" in k},
            "metrics": metrics,
            "oracle": outcome.oracle.to_mapping() if outcome.oracle else None,
            "checkpoint": str(place.adapted),
        }
        if rank() == 0:
            (folder / OUTCOME).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return result


def _say_nothing(_: str) -> None:
    """For nobody."""
