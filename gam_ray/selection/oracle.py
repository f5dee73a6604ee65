"""The oracle: what target labels would have said, read after the fact.

An `OracleReading` is shown, stored and plotted, and never chosen by: it has no order and is
no number, so handing it to a selecting function fails, in the type checker and at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor


@dataclass(frozen=True, eq=True, order=False)
class OracleReading:
    """Accuracies of one model on labelled target splits.

    Attributes:
        accuracies: Split name (``train``, ``test``) → accuracy in [0, 1].
    """

    accuracies: dict[str, float]

    def percent(self, split: str) -> str:
        """The accuracy on `split` as text such as ``"71.4"``, for a column named oracle."""
        return f"{100 * self.accuracies[split]:.1f}"

    def to_mapping(self) -> dict[str, float]:
        """Split name → accuracy, for storage."""
        return dict(self.accuracies)

    def __float__(self) -> NoReturn:
        raise TypeError("an oracle reading is no score: choosing by target labels is refused")

    def __lt__(self, other: object) -> NoReturn:
        raise TypeError("oracle readings have no order: choosing by target labels is refused")

    __gt__ = __le__ = __ge__ = __lt__


def read_oracle(splits: dict[str, tuple[Tensor, Tensor]]) -> OracleReading:
    """Compare predictions with target labels.

    Args:
        splits: Split name → (probabilities [N, C], labels [N]).
    """
    return OracleReading(
        {
            name: float((probabilities.argmax(1) == labels).double().mean())
            for name, (probabilities, labels) in splits.items()
        }
    )
