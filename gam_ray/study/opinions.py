"""What adaptation changed: predictions of the source network, of the choice and of the crowd.

In numpy, of what trials left on the storage; no label is looked at but by `class_accuracy`, for
the oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gam_ray.report.facts import Changes, ClassShare, Flow
from gam_ray.study.choosing import Ended
from gam_ray.study.store import StudyStore


@dataclass(frozen=True)
class Opinions:
    """What is said of the held-out target, image by image or sampled pixel by sampled pixel.

    Attributes:
        unadapted: Key of the source network's own trial.
        before: int64 [N], classes that the source network predicts.
        after: float32 [N, C], probabilities of the choice.
        consensus: int64 [N], the classes of the mean softmax of all trusted trials.
    """

    unadapted: str
    before: NDArray[np.int64]
    after: NDArray[np.float32]
    consensus: NDArray[np.int64]

    @cached_property
    def now(self) -> NDArray[np.int64]:
        """Classes [N] that the choice predicts."""
        return self.after.argmax(1)

    @cached_property
    def flipped(self) -> NDArray[np.bool_]:
        """Where [N] adaptation changed the class."""
        return self.before != self.now

    @property
    def disputed(self) -> NDArray[np.bool_]:
        """Where [N] the consensus says otherwise than the choice."""
        return self.consensus != self.now

    def surest(self, where: NDArray[np.bool_], most: int) -> list[int]:
        """At most so many of the rows in `where`, those first of which the choice is surest."""
        rows = np.flatnonzero(where)
        order = np.argsort(-self.after.max(1)[rows], kind="stable")
        return [int(row) for row in rows[order][:most]]


def read_opinions(store: StudyStore, ended: Sequence[Ended], chosen: str) -> Opinions | None:
    """The opinions of a study; None before the source network's own trial has ended.

    Args:
        store: Of the study.
        ended: All trials that ended in order.
        chosen: Key of the choice.
    """
    unadapted = [each.record.key for each in ended if each.record.role == "no adaptation"]
    if not unadapted:
        return None
    total: NDArray[np.float64] | None = None
    # One after the other: those of a thousand segmentations would not fit into memory at once.
    for each in ended:
        if each.record.has_vote and not each.causes:
            own = _predictions(store, each.record.key).astype(np.float64)
            total = own if total is None else total + own
    assert total is not None, "the source network itself is always trusted"
    return Opinions(
        unadapted=unadapted[0],
        before=_predictions(store, unadapted[0]).argmax(1),
        after=_predictions(store, chosen),
        consensus=total.argmax(1),
    )


def _predictions(store: StudyStore, key: str) -> NDArray[np.float32]:
    found = store.trial(key).predictions()
    assert found is not None, "a trial that ended in order has predictions"
    return found


def changes(opinions: Opinions, names: Sequence[str], unit: str) -> Changes:
    """What adaptation changed, in figures.

    Args:
        opinions: Of the study.
        names: Of the classes.
        unit: What a prediction is of.
    """
    count, classes = opinions.after.shape
    before = np.bincount(opinions.before, minlength=classes) / count
    after = np.bincount(opinions.now, minlength=classes) / count
    where = opinions.flipped
    pairs = zip(opinions.before[where].tolist(), opinions.now[where].tolist(), strict=True)
    return Changes(
        unit=unit,
        count=count,
        changed=int(where.sum()),
        classes=tuple(
            ClassShare(name, float(b), float(a))
            for name, b, a in zip(names, before, after, strict=True)
        ),
        flows=tuple(
            Flow(names[old], names[new], number)
            for (old, new), number in Counter(pairs).most_common()
        ),
        consensus=float((~opinions.disputed).mean()),
    )


def class_accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, float]:
    """Class → share in [0, 1] of its images that are predicted right, of classes with images.

    For the oracle alone.

    Args:
        predicted: Classes [N].
        labels: Classes [N].
    """
    return {
        int(label): float((predicted[labels == label] == label).mean())
        for label in np.unique(labels)
    }
