"""How settings differ, and which may when a study is taken up again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.config import filled_up, refused_changes, settings_difference

OLD: dict[str, Any] = {
    "name": "a",
    "space": {"adaptation.weight": {"log": [0.1, 10.0]}},
    "search": {"trials": 10, "seed": 0, "storage": None},
    "student": None,
}


def changed(**changes: Any) -> dict[str, Any]:
    new = json.loads(json.dumps(OLD))
    for path, value in changes.items():
        node = new
        *parents, name = path.split("__")
        for parent in parents:
            node = node[parent]
        node[name] = value
    return new


def test_each_difference_is_a_line_with_both_sides() -> None:
    new = changed(space={"adaptation.weight": {"log": [0.1, 1.0]}}, student={"teachers": 6})
    del new["search"]["seed"]
    assert settings_difference(OLD, new) == [
        "search.seed: 0 → (none)",
        "space.adaptation.weight.log: [0.1, 10.0] → [0.1, 1.0]",
        "student: null → (none)",
        "student.teachers: (none) → 6",
    ]


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (None, "null"), ("1", 1)])
def test_values_that_python_finds_alike_are_not(old: Any, new: Any) -> None:
    assert len(settings_difference({"x": old}, {"x": new})) == 1


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1), json_like))
def test_nothing_differs_from_itself(mapping: dict[str, Any]) -> None:
    assert settings_difference(mapping, json.loads(json.dumps(mapping))) == []


@given(st.integers(1, 100), st.integers(1, 100))
def test_trials_may_only_grow(before: int, after: int) -> None:
    lines = refused_changes(changed(search__trials=before), changed(search__trials=after))
    if after >= before:
        assert lines == []
    else:
        assert lines == [f"search.trials: {before} → {after} (may only grow)"]


def test_what_says_nothing_of_trials_may_change_and_else_nothing() -> None:
    new = changed(search__storage="sqlite:///x.db", search__seed=1)
    new["budget"] = {"gpu_hours": 8}
    assert refused_changes(OLD, new) == ["search.seed: 0 → 1"]
    assert refused_changes(OLD, {**OLD, "budgets": 1}) == ["budgets: (none) → 1"]


def test_what_an_older_version_wrote_gets_todays_defaults() -> None:
    task = {"source": "mnist", "target": "usps"}
    old = {"name": "a", "trial": {"task": task}, "space": {}}
    assert filled_up(old)["search"]["trials"] == 40
    assert filled_up({"name": "a"}) == {"name": "a"}
