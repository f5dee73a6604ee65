"""What a trial says to the outside, and what it hears back: go on or stop, keep or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gam_ray.selection.oracle import OracleReading

# Told the stage, what is done of it, and its total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Report:
    """The state of a trial after `step` adaptation steps; its checkpoint is already written.

    Attributes:
        step: Adaptation steps done; those of fine-tuning come on top.
        metrics: Losses, health and label-free scores by name, such as ``loss/target``,
            ``accuracy/source/fc3`` (a discriminator's) or ``score/class_ami``.
        predictions: Softmax [M, C], float32, on the target's held-out split: of its images, or of
            a fixed sample of their pixels.
        checkpoint: File with the target network after this step.
        oracle: What target labels say of it; None unless the trial was asked to read them.
    """

    step: int
    metrics: dict[str, float]
    predictions: NDArray[np.float32]
    checkpoint: Path
    oracle: OracleReading | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer to a report.

    Attributes:
        go_on: False to stop the trial here.
        keep: Whether the network of this report is the best of the trial so far, to be kept as
            the one that the trial ends with.
    """

    go_on: bool
    keep: bool = True


class Reporter(Protocol):
    """Where a trial's reports go. Called by the first worker only."""

    def report(self, report: Report) -> Verdict:
        """Take a report.

        A resumed trial sends the report of its checkpoint again, since it cannot know whether
        that was taken: a report of a known step is to be dropped, and to be answered as before.
        """

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far the current stage is; cheap, called every few seconds at most."""

    def is_to_pause(self) -> bool:
        """Whether the trial is to leave a checkpoint and end for now; cheap, asked often."""


class TrialPausedError(Exception):
    """A trial ended for now, as it was asked to; it goes on from its checkpoint when run again."""


class DivergedError(ArithmeticError):
    """A loss or a parameter is no longer a finite number."""
