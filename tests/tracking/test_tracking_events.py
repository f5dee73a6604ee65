"""What events take, and what MLflow's naming makes of them."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from gam_ray.tracking import (
    ArtifactReady,
    MetricsReported,
    StudyStarted,
    TagsSet,
    TrialEnded,
    TrialStarted,
    event_from_json,
)
from gam_ray.tracking.batches import gather
from gam_ray.tracking.naming import clean_key, clean_text


def test_importing_the_room_does_not_import_mlflow() -> None:
    code = "import sys, gam_ray.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_events_are_frozen() -> None:
    event = TagsSet(None, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.trial = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: TrialStarted("", "name", {}, {}, 1), "trial"),
        (lambda: TrialStarted("study", "name", {}, {}, 1), "parent"),
        (lambda: TrialStarted("key", "", {}, {}, 1), "name"),
        (lambda: StudyStarted("s", {"a": [1]}, {}, 1), "flatten"),  # type: ignore[dict-item]
        (lambda: StudyStarted("s", [], {}, 1), "mapping"),  # type: ignore[arg-type]
        (lambda: StudyStarted("s", {}, {"a": 1}, 1), "tag a"),  # type: ignore[dict-item]
        (lambda: StudyStarted("s", {}, {}, -1), "milliseconds"),
        (lambda: StudyStarted("s", {}, {}, 1.5), "milliseconds"),  # type: ignore[arg-type]
        (lambda: MetricsReported("key", 1, {"a": "x"}, 1), "numbers"),  # type: ignore[dict-item]
        (lambda: MetricsReported("key", 1.5, {}, 1), "whole"),  # type: ignore[arg-type]
        (lambda: MetricsReported("key", 2**63, {}, 1), "64 bits"),
        (lambda: ArtifactReady(None, ""), "path"),
        (lambda: TrialEnded("key", "DONE", 1), "FINISHED"),  # type: ignore[arg-type]
        (lambda: event_from_json([]), "kind"),
        (lambda: event_from_json({"kind": "party"}), "party"),
        (lambda: event_from_json({"kind": "tags_set", "trial": None}), "tags"),
    ],
)
def test_misuse_is_told(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]


def test_array_scalars_become_plain_numbers() -> None:
    event = MetricsReported("key", np.int64(3), {"a": np.float32(0.5)}, 1)  # type: ignore[arg-type]
    assert event.to_json() == {
        "kind": "metrics_reported",
        "trial": "key",
        "step": 3,
        "values": {"a": 0.5},
        "time_ms": 1,
    }


@given(st.text())
def test_any_key_is_made_acceptable(key: str) -> None:
    _validate_metric_name(clean_key(key))
    assert 0 < len(clean_key(key)) <= 250


@pytest.mark.parametrize("key", ["loss", "val/acc.top-1", "a b:c_d", "l" * 250])
def test_good_keys_stay(key: str) -> None:
    assert clean_key(key) == key


def test_long_keys_stay_apart() -> None:
    assert clean_key("k" * 300 + "a") != clean_key("k" * 300 + "b")


def test_texts_lose_what_stores_choke_on() -> None:
    assert clean_text("a\0b\ud800c", 4) == "ab?c"


def test_one_batch_a_run() -> None:
    reports = [MetricsReported(t, s, {"a": 1.0, "b": 2.0}, s) for s in range(3) for t in ("x", "y")]
    batches = gather([*reports, TagsSet("x", {"t": "1"}), TagsSet("x", {"t": "2"})])
    assert {key: len(batch.content.metrics) for key, batch in batches.items()} == {"x": 6, "y": 6}
    assert batches["x"].content.tags == {"t": "2"}


def test_a_run_that_goes_on_is_not_over() -> None:
    again = TrialStarted("x", "x", {"a": 1}, {}, 3)
    batch = gather([again, TrialEnded("x", "FAILED", 2), again])["x"]
    assert batch.ending is None
    assert batch.content.params == [("a", "1")]
