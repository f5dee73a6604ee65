"""The oracle: what target labels would have said, read after the fact.

An `OracleReading` is shown, stored and plotted, and never chosen by: it has no order and is
no number, so handing it to a selecting function fails, in the type checker and at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, eq=True, order=False)
class OracleReading:
    """How right one model is on labelled target splits.

    Attributes:
        figures: Split name (``train``, ``test``) → accuracy, or mean IoU for segmentation, in
            [0, 1]; and ``SPLIT/NAME`` → further figures of that split, in [0, 1].
    """

    figures: dict[str, float]

    def percent(self, split: str) -> str:
        """The main figure of `split` as text such as ``"71.4"``, for a column named oracle."""
        return f"{100 * self.figures[split]:.1f}"

    def as_requested_score(self) -> float:
        """The main figure of the test split, or of the only one, as a number to choose by.

        For a study whose file says ``score: oracle``, which then says so in all it shows.
        """
        split = "test" if "test" in self.figures else next(iter(self.figures))
        return self.figures[split]

    def to_mapping(self) -> dict[str, float]:
        """Name → figure, for storage."""
        return dict(self.figures)

    def __float__(self) -> NoReturn:
        raise TypeError("an oracle reading is no score: choosing by target labels is refused")

    def __lt__(self, other: object) -> NoReturn:
        raise TypeError("oracle readings have no order: choosing by target labels is refused")

    __gt__ = __le__ = __ge__ = __lt__


def read_oracle(splits: Mapping[str, Mapping[str, float]]) -> OracleReading:
    """A reading of figures by split.

    Args:
        splits: Split name → figures by name, the main one under ``""``.
    """
    return OracleReading(
        {
            f"{split}/{name}" if name else split: value
            for split, figures in splits.items()
            for name, value in figures.items()
        }
    )
