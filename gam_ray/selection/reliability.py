"""How well each score chose where labels are known: what `benchmarks/selection.py` found."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any


def reliability(score: str) -> dict[str, float] | None:
    """Of a score over the tasks of the record, in points of accuracy or of mean IoU.

    Returns:
        ``tasks`` (their number), ``mean_regret`` and ``worst_regret`` against the oracle's
        choice, ``mean_spearman`` (weighted rank correlation with the accuracy); None where
        nothing is recorded of it.
    """
    found: dict[str, float] | None = _recorded().get(score)
    return found


@lru_cache
def _recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        files("gam_ray.selection").joinpath("reliability.json").read_text(encoding="utf-8")
    )
    return content
