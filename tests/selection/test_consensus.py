"""The crowd's consensus, against a direct computation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gam_ray.selection.consensus import Crowd, agreements

# Multiples of 1/8 add up exactly, so that ties stay ties in any order.
eighths = arrays(np.float32, (6, 3), elements=st.integers(0, 8).map(lambda n: n / 8))
ballots = st.lists(
    st.tuples(st.sampled_from("abcd"), eighths, st.booleans()), min_size=1, max_size=8
)


@given(votes=ballots)
def test_agreement_is_with_the_mean_of_the_latest_votes_of_those_who_have_one(
    votes: list[tuple[str, np.ndarray, bool]],
) -> None:
    crowd = Crowd()
    for name, probabilities, trusted in votes:
        crowd.vote(name, probabilities, trusted=trusted)
    latest = {name: probabilities for name, probabilities, _ in votes}
    is_trusted = {name: trusted for name, _, trusted in votes}
    voters = [name for name in latest if is_trusted[name]] or list(latest)
    consensus = np.mean([latest[name] for name in voters], axis=0).argmax(1)
    assert len(crowd) == len(latest)
    for name, probabilities in latest.items():
        expected = np.mean(probabilities.argmax(1) == consensus)
        assert crowd.agreement(name) == expected
    out = {name for name in latest if not is_trusted[name]}
    found = agreements(latest, untrusted=out)
    assert found == {name: crowd.agreement(name) for name in latest}


def test_a_mostly_collapsed_crowd_is_right_once_the_collapsed_have_no_vote() -> None:
    good, collapsed = np.eye(4)[[0, 1, 2, 3]], np.eye(4)[[0, 0, 0, 0]]
    crowd = {"good": good, **{f"collapsed {n}": collapsed for n in range(5)}}
    assert agreements(crowd)["good"] == 0.25
    trusting = agreements(crowd, untrusted=set(crowd) - {"good"})
    assert trusting["good"] == 1
    assert trusting["collapsed 0"] == 0.25


def test_one_model_agrees_with_itself() -> None:
    crowd = Crowd()
    crowd.vote("a", np.array([[0.9, 0.1], [0.2, 0.8]]))
    assert "a" in crowd
    assert crowd.agreement("a") == 1


def test_a_majority_outvotes_a_model_that_collapsed() -> None:
    good = np.eye(4)[[0, 1, 2, 3]]
    collapsed = np.eye(4)[[0, 0, 0, 0]]
    assert agreements({"a": good, "b": good, "c": collapsed}) == {"a": 1, "b": 1, "c": 0.25}


def test_another_shape_is_refused_and_the_crowd_is_as_before() -> None:
    crowd = Crowd()
    crowd.vote("a", np.eye(3))
    with pytest.raises(ValueError, match=r"'b' must have the shape \(3, 3\) .*got \(2, 3\)"):
        crowd.vote("b", np.eye(3)[:2])
    assert "b" not in crowd
    assert crowd.agreement("a") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_refused(value: float) -> None:
    crowd = Crowd()
    crowd.vote("a", np.eye(3))
    broken = np.eye(3)
    broken[1, 1] = value
    with pytest.raises(ValueError, match="'a' must be finite"):
        crowd.vote("a", broken)
    assert crowd.agreement("a") == 1


def test_who_has_not_voted_has_no_agreement() -> None:
    with pytest.raises(KeyError):
        Crowd().agreement("a")


def test_the_crowd_needs_no_torch() -> None:
    code = "import sys, gam_ray.selection.consensus; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
