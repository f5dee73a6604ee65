"""What may choose chooses, and what reads target labels may not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.selection.choice import Candidate, choose
from gam_ray.selection.oracle import OracleReading, read_oracle
from gam_ray.selection.standings import Standings

READING = OracleReading({"test": 0.5})
scores = st.floats() | st.integers(-3, 3)


@given(values=st.lists(scores, min_size=1, max_size=6))
def test_the_first_of_the_highest_finite_scores_wins(values: list[float]) -> None:
    candidates = [Candidate(str(number), value) for number, value in enumerate(values)]
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        assert choose(iter(candidates)).name == str(values.index(max(finite)))
    else:
        with pytest.raises(ValueError, match="no candidate has a finite score"):
            choose(candidates)


def test_nan_and_infinity_cannot_win() -> None:
    values = {"a": math.nan, "b": 0.1, "c": math.inf, "d": 0.2, "e": math.nan}
    assert choose(Candidate(name, value) for name, value in values.items()).name == "d"


def test_among_equals_the_first_given_wins() -> None:
    assert choose([Candidate("a", 0.5), Candidate("b", 0.5)]).name == "a"


def test_nothing_gives_no_choice() -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        choose([])


@pytest.mark.parametrize("score", [READING, "0.5", None, torch.tensor(0.5)])
def test_a_score_is_a_number_and_no_oracle_reading(score: Any) -> None:
    with pytest.raises(TypeError, match="a score must be a number, but got "):
        Candidate("a", score)


def test_standings_rank_no_oracle_reading() -> None:
    standings = Standings(["bnm", "snd"])
    for name in ("a", "b"):
        scores = {"score/bnm": READING, "score/snd": 0.5}
        standings.put(name, scores, np.eye(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="choosing by target labels is refused"):
        standings.values()


def test_a_reading_becomes_a_number_to_choose_by_only_on_request() -> None:
    assert OracleReading({"train": 0.25, "test": 0.5}).as_requested_score() == 0.5
    assert OracleReading({"train": 0.25, "train/iou/road": 1.0}).as_requested_score() == 0.25


@pytest.mark.parametrize(
    "use",
    [
        float,
        lambda reading: sorted([reading, reading]),
        lambda reading: max(reading, reading),
        lambda reading: min([reading, reading]),
        lambda reading: reading < 0.5,
        lambda reading: reading > 0.5,
        lambda reading: reading <= reading,  # noqa: PLR0124
        lambda reading: 0.5 >= reading,  # noqa: SIM300
        math.isfinite,
    ],
)
def test_an_oracle_reading_is_no_number_and_has_no_order(use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="choosing by target labels is refused"):
        use(READING)


def test_a_reading_has_the_figures_of_every_split() -> None:
    reading = read_oracle({"train": {"": 2 / 3, "iou/road": 0.9}, "test": {"": 0.0}})
    assert reading.to_mapping() == {"train": 2 / 3, "train/iou/road": 0.9, "test": 0.0}
    assert (reading.percent("train"), reading.percent("test")) == ("66.7", "0.0")


def test_what_is_stored_of_a_reading_is_a_copy() -> None:
    READING.to_mapping()["test"] = 1.0
    assert READING.percent("test") == "50.0"
