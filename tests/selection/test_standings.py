"""Standings: the objective of each model, alone or ranked among the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from gam_ray.selection.consensus import agreements
from gam_ray.selection.standings import CONFIDENT_VOTERS, LEAST_OTHERS, Standings, mean_ranks

SURE = np.eye(3)


def votes(*classes: int) -> np.ndarray:
    return SURE[list(classes)]


@given(
    st.lists(
        st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)),
        min_size=2,
        max_size=8,
    )
)
def test_mean_ranks_are_scipys_scaled_to_0_and_1(pairs: list[tuple[float, float]]) -> None:
    scores = [{f"m{n}": pair[k] for n, pair in enumerate(pairs)} for k in (0, 1)]
    expected = np.mean(
        [(rankdata(list(values.values())) - 1) / (len(pairs) - 1) for values in scores], axis=0
    )
    found = mean_ranks(scores)
    assert [found[f"m{n}"] for n in range(len(pairs))] == pytest.approx(expected)


def test_one_model_ranks_in_the_middle() -> None:
    assert mean_ranks([{"a": 3.0}]) == {"a": 0.5}


@pytest.mark.parametrize("scores", [["ensv"], ["confident_ensv", "bnm"], ["bnm"]])
def test_an_empty_study_has_no_values(scores: list[str]) -> None:
    assert Standings(scores).values() == {}


def test_one_score_is_the_objective_itself() -> None:
    standings = Standings(["bnm"])
    standings.put("a", {"score/bnm": 0.25}, votes(0, 1))
    standings.put("b", {"score/bnm": 0.5}, votes(0, 1))
    assert standings.values() == {"a": 0.25, "b": 0.5}
    assert standings.value("b") == 0.5


def test_ensv_is_the_crowds_and_what_has_no_vote_is_held_against_it() -> None:
    standings = Standings(["ensv"])
    said = {"a": votes(0, 1, 2), "b": votes(0, 1, 1), "c": votes(2, 2, 2)}
    for name, predictions in said.items():
        standings.put(name, {}, predictions, has_vote=name != "c")
    assert standings.values() == agreements(said, untrusted={"c"})
    # A second word replaces the first.
    standings.put("c", {}, votes(0, 1, 1), has_vote=False)
    assert standings.value("c") == pytest.approx(2 / 3 if standings.value("b") < 1 else 1)


def crowd(scores: list[str], others: int) -> Standings:
    standings = Standings(scores)
    for n in range(others):
        standings.put(f"other {n}", {"score/bnm": 0.1 * n, "score/entropy": 0.0}, votes(0, 1, 2))
    standings.put("own", {"score/bnm": 0.25, "score/entropy": 0.0}, votes(0, 0, 2))
    return standings


def test_a_checkpoint_that_the_others_agree_with_more_is_no_worse() -> None:
    standings = crowd(["ensv"], LEAST_OTHERS)
    assert standings.is_no_worse("own", {}, votes(0, 1, 2))
    assert standings.is_no_worse("own", {}, votes(0, 0, 2))
    assert not standings.is_no_worse("own", {}, votes(0, 0, 0))


def test_a_few_others_say_nothing_of_a_checkpoint() -> None:
    assert crowd(["ensv"], LEAST_OTHERS - 1).is_no_worse("own", {}, votes(2, 2, 1))


def test_checkpoints_compare_by_their_mean_rank_among_the_others() -> None:
    standings = crowd(["ensv", "bnm"], LEAST_OTHERS)
    # Better by bnm than three others in place of two; by ensv still below all.
    assert standings.is_no_worse("own", {"score/bnm": 0.35}, votes(0, 0, 2))
    assert not standings.is_no_worse("own", {"score/bnm": 0.05}, votes(0, 0, 2))
    # Equal to the others by ensv outweighs one place by bnm.
    assert standings.is_no_worse("own", {"score/bnm": 0.15}, votes(0, 1, 2))


def test_checkpoints_may_compare_by_other_scores_than_models() -> None:
    standings = crowd(["bnm"], LEAST_OTHERS)
    by_agreement = Standings(["bnm"], ["ensv"])
    for name in standings.values():
        said = votes(0, 0, 2) if name == "own" else votes(0, 1, 2)
        by_agreement.put(name, {"score/bnm": 0.25, "score/entropy": 0.0}, said)
    for bnm, classes, wanted in ((0.9, (0, 0, 0), (True, False)), (0.1, (0, 1, 2), (False, True))):
        report = {"score/bnm": bnm}, votes(*classes)
        assert standings.is_no_worse("own", *report) is wanted[0]
        assert by_agreement.is_no_worse("own", *report) is wanted[1]
    assert by_agreement.value("own") == 0.25


def test_a_report_without_the_score_is_an_error_that_names_it() -> None:
    standings = Standings(["snd"])
    standings.put("a", {"score/bnm": 1.0}, votes(0))
    with pytest.raises(KeyError, match="score/snd"):
        standings.value("a")


def test_confident_ensv_is_agreement_with_the_surest_that_have_a_vote() -> None:
    standings = Standings(["confident_ensv"])
    rng = np.random.default_rng(0)
    said = {f"m{n}": rng.dirichlet(np.ones(3), size=40) for n in range(10)}
    entropy = {name: float(rng.uniform(-1, 0)) for name in said}
    mute = max(entropy, key=entropy.__getitem__)  # the surest of all has collapsed
    for name, predictions in said.items():
        metrics = {"score/entropy": entropy[name]}
        standings.put(name, metrics, predictions, has_vote=name != mute)
    able = sorted((name for name in said if name != mute), key=lambda name: -entropy[name])
    consensus = np.mean([said[name] for name in able[:CONFIDENT_VOTERS]], axis=0).argmax(1)
    expected = {name: np.mean(p.argmax(1) == consensus) for name, p in said.items()}
    assert standings.values() == pytest.approx(expected)
    assert standings.crowd_scores("m3")["confident_ensv"] == pytest.approx(expected["m3"])
    assert standings.crowd_scores("m3")["ensv"] == agreements(said, untrusted={mute})["m3"]


def test_a_sure_minority_that_agrees_outvotes_a_crowd_that_is_wrong_alike() -> None:
    right, wrong = votes(0, 1, 2, 0), votes(1, 1, 2, 2)
    crowds = {}
    for score in ("ensv", "confident_ensv"):
        standings = Standings([score])
        for n in range(12):
            standings.put(f"wrong {n}", {"score/entropy": -0.6}, 0.8 * wrong + 0.2 / 3)
        for n in range(4):
            standings.put(f"right {n}", {"score/entropy": -0.1}, right)
        crowds[score] = standings.value("right 0") - standings.value("wrong 0")
    assert crowds["ensv"] < 0 < crowds["confident_ensv"]
