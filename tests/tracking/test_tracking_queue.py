"""The queue: nothing acknowledged is lost, whatever the crash."""

import json
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_ray.tracking import (
    ArtifactReady,
    Event,
    MetricsReported,
    StudyEnded,
    StudyStarted,
    TagsSet,
    TrackingQueue,
    TrialEnded,
    TrialStarted,
)

names = st.text(min_size=1, max_size=20)
trials = names.filter(lambda key: key != "study")
runs = st.none() | trials
times = st.integers(0, 2**62)
statuses = st.sampled_from(["FINISHED", "KILLED", "FAILED"])
tags = st.dictionaries(names, st.text(max_size=20), max_size=3)
scalars = st.text(max_size=20) | st.floats() | st.integers() | st.booleans() | st.none()
params = st.dictionaries(names, scalars, max_size=3)
values = st.dictionaries(names, st.floats(), max_size=3)
steps = st.integers(-(2**62), 2**62)
events = st.one_of(
    st.builds(StudyStarted, names, params, tags, times),
    st.builds(TrialStarted, trials, names, params, tags, times),
    st.builds(MetricsReported, runs, steps, values, times),
    st.builds(TagsSet, runs, tags),
    st.builds(ArtifactReady, runs, names, st.text(max_size=20)),
    st.builds(TrialEnded, trials, statuses, times),
    st.builds(StudyEnded, statuses, times),
)
few = settings(max_examples=60, deadline=None)


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for one example of a property."""
    with tempfile.TemporaryDirectory(prefix="a queue ") as folder:
        yield Path(folder)


def as_text(found: list[Event]) -> list[str]:
    """Events in a form in which NaN equals NaN."""
    return [json.dumps(event.to_json()) for event in found]


def event(number: int) -> MetricsReported:
    return MetricsReported("key", number, {"loss": number / 2}, number)


def steps_of(queue: TrackingQueue) -> list[int]:
    return [found.step for _, found in queue.read() if isinstance(found, MetricsReported)]


@few
@given(st.lists(events, max_size=6), st.data())
def test_events_come_back_as_they_were(written: list[Event], data: st.DataObject) -> None:
    with new_folder() as folder:
        queue = TrackingQueue(folder)
        for each in written:
            queue.append(each)
        found = TrackingQueue(folder).read()
        assert as_text([each for _, each in found]) == as_text(written)
        if found:
            cut = data.draw(st.integers(0, len(found) - 1))
            assert as_text([e for _, e in queue.read(found[cut][0])]) == as_text(written[cut + 1 :])
        queue.close()


@few
@given(st.lists(events, min_size=1, max_size=4), events, st.data())
def test_a_line_torn_at_any_byte_costs_only_itself(
    written: list[Event], later: Event, data: st.DataObject
) -> None:
    with new_folder() as folder:
        queue = TrackingQueue(folder)
        for each in written:
            queue.append(each)
        queue.close()
        file = folder / "events.jsonl"
        whole = file.read_bytes()
        torn = whole[: data.draw(st.integers(0, len(whole)))]
        file.write_bytes(torn)
        left = written[: torn.count(b"\n")]

        reopened = TrackingQueue(folder)
        assert as_text([each for _, each in reopened.read()]) == as_text(left)
        assert file.read_bytes() == torn, "reading must not change what another process writes"
        reopened.append(later)
        assert as_text([each for _, each in reopened.read()]) == as_text([*left, later])
        reopened.close()


def test_a_line_counts_when_its_end_is_there(tmp_path: Path) -> None:
    queue = TrackingQueue(tmp_path / "a queue")
    queue.append(event(1))
    queue.append(event(2))
    file = tmp_path / "a queue" / "events.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert steps_of(queue) == [1]
    [(end, _)] = queue.read()
    file.write_bytes(whole)
    assert [each for _, each in queue.read(end)] == [event(2)]


def test_a_long_torn_line_is_cut_off(tmp_path: Path) -> None:
    queue = TrackingQueue(tmp_path / "a queue")
    queue.append(event(1))
    with (tmp_path / "a queue" / "events.jsonl").open("ab") as file:
        file.write(b"x" * 200_000)
    reopened = TrackingQueue(tmp_path / "a queue")
    reopened.append(event(2))
    assert steps_of(reopened) == [1, 2]


def test_threads_share_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = os.write  # in pieces, so that lines would mix without a lock
    monkeypatch.setattr(os, "write", lambda descriptor, line: write_all(descriptor, line[:50]))
    queue = TrackingQueue(tmp_path / "a queue")

    def write(first: int) -> None:
        for number in range(first, first + 50):
            queue.append(event(number))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [number for first in (0, 100, 200, 300) for number in range(first, first + 50)]
    assert sorted(steps_of(queue)) == expected


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_costs_only_what_did_not_fit(tmp_path: Path) -> None:
    queue = TrackingQueue(tmp_path / "a queue")
    queue.append(event(1))
    file = tmp_path / "a queue" / "events.jsonl"
    whole = file.read_bytes()
    with full_disk(len(whole) + 10):
        for number in (2, 3):
            with pytest.raises(OSError, match=r"File too large: .*events\.jsonl"):
                queue.append(event(number))
        assert file.stat().st_size == len(whole) + 10, "it was cut short in the middle of a line"
        assert steps_of(queue) == [1]
    queue.append(event(4))
    assert steps_of(TrackingQueue(tmp_path / "a queue")) == [1, 4]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:7]))
    queue = TrackingQueue(tmp_path / "a queue")
    queue.append(event(1))
    queue.append(event(2))
    assert steps_of(queue) == [1, 2]


def test_an_unreadable_line_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = TrackingQueue(tmp_path / "a queue")
    queue.append(event(1))
    with (tmp_path / "a queue" / "events.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n{"kind": "unknown"}\n')
    queue.append(event(2))
    assert steps_of(queue) == [1, 2]
    assert caplog.text.count("passed over") == 2
