"""Which trials of a study the collapse guard distrusts."""

from __future__ import annotations

from collections.abc import Mapping

from gam_ray.selection.guard import guard_causes
from gam_ray.study.store import TrialRecord


def distrust(
    record: TrialRecord, metrics: Mapping[str, float], *, label_shift: float
) -> tuple[str, ...]:
    """Why a trial cannot win after this report; empty if it can.

    The source network as it is, is never distrusted: doing nothing must stay possible.

    Args:
        record: The trial.
        metrics: Of its newest report.
        label_shift: As `ObjectiveConfig` has it.
    """
    if record.role == "no adaptation":
        return ()
    return guard_causes(metrics, label_shift=label_shift)
