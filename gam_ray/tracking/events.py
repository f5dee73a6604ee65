"""What is tracked: one small frozen record for each thing that happens in a study.

Every event carries its own fixed time, so that sending it twice writes the same row twice and the
store can drop the copy.
"""

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

Scalar = str | float | int | bool | None
Params = dict[str, Scalar]
Tags = dict[str, str]
RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

STUDY = "study"
"""The key of the study's own (parent) run wherever runs are listed by key."""

_LARGEST = 2**63 - 1  # what a database column holds


@dataclass(frozen=True)
class _Record:
    """What all events share: a kind, and the way to JSON."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object; `event_from_json` is the way back."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class StudyStarted(_Record):
    """A study starts, or goes on after a stop.

    Attributes:
        study: The name shown for the study's run.
        params: What is fixed for the whole study.
        tags: Free text by name.
        time_ms: When, in milliseconds since the epoch.
    """

    kind = "study_started"
    study: str
    params: Params
    tags: Tags
    time_ms: int

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_text("study", self.study)
        _check_start(self.params, self.tags, self.time_ms)


@dataclass(frozen=True)
class TrialStarted(_Record):
    """A trial starts, or goes on after a stop.

    Attributes:
        trial: The trial's key.
        name: The name shown for the trial's run.
        params: The trial's settings.
        tags: Free text by name.
        time_ms: When, in milliseconds since the epoch.
    """

    kind = "trial_started"
    trial: str
    name: str
    params: Params
    tags: Tags
    time_ms: int

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_trial(self.trial)
        _check_text("name", self.name)
        _check_start(self.params, self.tags, self.time_ms)


@dataclass(frozen=True)
class MetricsReported(_Record):
    """Numbers measured at one step. Report a step once: another time makes another row.

    Attributes:
        trial: The trial's key, or None for the study's own run.
        step: The step they were measured at.
        values: The numbers by name; anything `float` takes.
        time_ms: When, in milliseconds since the epoch.
    """

    kind = "metrics_reported"
    trial: str | None
    step: int
    values: dict[str, float]
    time_ms: int

    def __post_init__(self) -> None:
        """Check the fields, and make plain numbers of array scalars.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_run(self.trial)
        _check_time(self.time_ms)
        object.__setattr__(self, "step", _whole("step", self.step))
        object.__setattr__(self, "values", _numbers(self.values))


@dataclass(frozen=True)
class TagsSet(_Record):
    """Tags to set; a later value replaces an earlier one.

    Attributes:
        trial: The trial's key, or None for the study's own run.
        tags: Free text by name.
    """

    kind = "tags_set"
    trial: str | None
    tags: Tags

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_run(self.trial)
        _check_tags(self.tags)


@dataclass(frozen=True)
class ArtifactReady(_Record):
    """A local file to upload. It has to stay where it is until it is logged.

    Attributes:
        trial: The trial's key, or None for the study's own run.
        path: The file; a relative path is taken from the working directory of now.
        folder: The artifact folder it goes to; empty for the top.
    """

    kind = "artifact_ready"
    trial: str | None
    path: str
    folder: str = ""

    def __post_init__(self) -> None:
        """Check the fields, and make the path absolute: the sink may run elsewhere.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_run(self.trial)
        _check_text("path", self.path)
        _check_text("folder", self.folder, empty=True)
        object.__setattr__(self, "path", str(Path(self.path).absolute()))


@dataclass(frozen=True)
class TrialEnded(_Record):
    """A trial is over.

    Attributes:
        trial: The trial's key.
        status: FINISHED, KILLED (stopped early) or FAILED.
        time_ms: When, in milliseconds since the epoch.
    """

    kind = "trial_ended"
    trial: str
    status: RunStatus
    time_ms: int

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_trial(self.trial)
        _check_status(self.status)
        _check_time(self.time_ms)


@dataclass(frozen=True)
class StudyEnded(_Record):
    """The study is over, for now.

    Attributes:
        status: FINISHED, KILLED (stopped by the user) or FAILED.
        time_ms: When, in milliseconds since the epoch.
    """

    kind = "study_ended"
    status: RunStatus
    time_ms: int

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a field breaks its rule.
        """
        _check_status(self.status)
        _check_time(self.time_ms)


Event = (
    StudyStarted
    | TrialStarted
    | MetricsReported
    | TagsSet
    | ArtifactReady
    | TrialEnded
    | StudyEnded
)
_TYPES: dict[str, type[Event]] = {event_type.kind: event_type for event_type in get_args(Event)}


def event_from_json(record: object) -> Event:
    """Make the event again that `to_json` wrote.

    Args:
        record: The JSON object.

    Returns:
        The event.

    Raises:
        ValueError: If it is no object, its kind is unknown, or its fields do not fit the kind.
    """
    if not isinstance(record, dict) or record.get("kind") not in _TYPES:
        raise ValueError(
            f"an event is a JSON object whose kind is one of {', '.join(_TYPES)}; got {record!r}: "
            "was it written by another version?"
        )
    fields = {key: value for key, value in record.items() if key != "kind"}
    try:
        return _TYPES[record["kind"]](**fields)
    except TypeError as error:
        raise ValueError(
            f"the fields of {record!r} do not fit its kind ({error}): was it written by another "
            "version?"
        ) from error


def run_of(event: Event) -> str:
    """Return the key of the run that an event belongs to: a trial's, or `STUDY`."""
    trial = None if isinstance(event, StudyStarted | StudyEnded) else event.trial
    return STUDY if trial is None else trial


def _require(rule_holds: bool, message: str) -> None:
    if not rule_holds:
        raise ValueError(message)


def _check_start(params: object, tags: object, time_ms: object) -> None:
    _check_time(time_ms)
    _check_tags(tags)
    for key, value in _mapping("params", params).items():
        _check_text("a param's name", key)
        _require(
            isinstance(value, Scalar),
            f"params must be text, numbers, booleans or None; got {key} = {value!r}: "
            "flatten it, or turn it into text",
        )


def _check_tags(tags: object) -> None:
    for key, value in _mapping("tags", tags).items():
        _check_text("a tag's name", key)
        _check_text(f"tag {key}", value, empty=True)


def _check_run(trial: object) -> None:
    if trial is not None:
        _check_trial(trial)


def _check_trial(trial: object) -> None:
    _check_text("trial", trial)
    _require(
        trial != STUDY, f"trial must not be {STUDY!r}, the key of the parent; got it: give None"
    )


def _check_text(field: str, text: object, *, empty: bool = False) -> None:
    rule = "text" if empty else "text that is not empty"
    fits = isinstance(text, str) and bool(text or empty)
    _require(fits, f"{field} must be {rule}; got {text!r}: give a str")


def _check_time(time_ms: object) -> None:
    _require(
        isinstance(time_ms, int) and 0 <= time_ms <= _LARGEST,
        f"time_ms must be whole milliseconds since the epoch; got {time_ms!r}: "
        "give int(time.time() * 1000)",
    )


def _check_status(status: object) -> None:
    known = get_args(RunStatus)
    _require(status in known, f"status must be one of {', '.join(known)}; got {status!r}: name one")


def _mapping(field: str, value: object) -> Mapping[Any, Any]:
    _require(
        isinstance(value, Mapping),
        f"{field} must be a mapping; got {value!r}: give names to values",
    )
    return cast("Mapping[Any, Any]", value)


def _whole(field: str, value: Any) -> int:
    try:
        whole = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{field} must be a whole number; got {value!r}: give an int") from error
    _require(
        abs(whole) <= _LARGEST, f"{field} must fit into 64 bits; got {value!r}: count in steps"
    )
    return whole


def _numbers(values: object) -> dict[str, float]:
    numbers = {}
    for key, value in _mapping("values", values).items():
        _check_text("a metric's name", key)
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"values must be numbers; got {key} = {value!r}: give what float() takes"
            ) from error
    return numbers
