"""A study's folder as it is at one moment, while the study goes on writing to it.

What a study writes follows from what it wrote before: an end from reports, a report from a
checkpoint, MLflow's rows from the queue. Files are taken the other way round, what follows first:
what a snapshot holds then never speaks of something that it lacks, and is a state that a study
killed at some moment would have left, from which it goes on.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gam_ray.tracking.queue import QUEUE

# What follows first. Of a trial no file is left out: others come after these.
_TRIAL_FILES = (
    "end.json", "exhibits.npz", "reports.jsonl", "predictions.npy", "adapted.pt", "checkpoint.pt",
    "checkpoint.pt.before", "started", "trial.json",
)  # fmt: skip
# Written whole and then put in place: what was linked stays as it is.
_REPLACED = {".pt", ".npy", ".npz", ".before"}
_PASSING = (".tmp", ".lock", "-journal", "-wal", "-shm")
# Of one life of a study: Ray's own notes, and what asks this life to stop.
_OF_ONE_LIFE = {"ray", "stop.json"}
# A trial that reports while it is taken is taken again, but not for ever.
ATTEMPTS = 5
SQLITE_TIMEOUT_S = 20.0

Identity = tuple[int, int, int]
"""Inode, time of the last change in ns, bytes: another one where the content is another."""


@dataclass(frozen=True)
class Taken:
    """A file of a snapshot.

    Attributes:
        file: Its content, which stays.
        identity: Of the study's file when it was taken.
    """

    file: Path
    identity: Identity


def take(folder: Path, to: Path) -> dict[str, Taken]:
    """Take a snapshot.

    Args:
        folder: The study's.
        to: An empty folder on the same file system.

    Returns:
        Path in the folder → what was taken.

    Raises:
        OSError: If the disk refuses.
        sqlite3.Error: If a database is busy for too long.
    """
    taken: dict[str, Taken] = {}
    for file in _own(folder):
        _take(file, folder, to, taken)
    for trial in _sorted(folder / "trials"):
        _take_trial(trial, folder, to, taken)
    for file in _others(folder):
        _take(file, folder, to, taken)
    return taken


def identity(file: Path) -> Identity:
    """What tells a file's content from another one's.

    Raises:
        FileNotFoundError: If it is not there.
    """
    stat = file.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _own(folder: Path) -> Iterator[Path]:
    """The study's own files, and what MLflow and Optuna know, what follows first.

    Each is looked for when those before have been taken.
    """
    tracking = folder / "tracking"
    groups: tuple[tuple[Path, Callable[[Path], bool]], ...] = (
        (folder, lambda file: file.suffix != ".db"),
        (tracking, lambda file: file.name != QUEUE),
        (folder, lambda file: file.suffix == ".db"),
        (tracking, lambda file: file.name == QUEUE),
    )
    for where, is_next in groups:
        yield from (file for file in _sorted(where) if is_next(file) and _belongs(file, folder))


def _others(folder: Path) -> Iterator[Path]:
    """What nothing but a trial or MLflow follows from: source networks, MLflow's files."""
    for below in _sorted(folder):
        if below.name not in ("trials", "tracking") and below.is_dir():
            yield from (file for file in sorted(below.rglob("*")) if _belongs(file, folder))


def _take_trial(trial: Path, folder: Path, to: Path, taken: dict[str, Taken]) -> None:
    """Take a trial's files: its reports, and the checkpoint of the newest of them or of the next.

    A later one would leave out reports: the trial would go on behind them.
    """
    reports = trial / "reports.jsonl"
    for _ in range(ATTEMPTS):
        before = _size(reports)
        for name in _TRIAL_FILES:
            _take(trial / name, folder, to, taken)
        if _size(reports) == before:
            return
    raise OSError(f"{trial} is written faster than it can be read")


def _take(file: Path, folder: Path, to: Path, taken: dict[str, Taken]) -> None:
    name = str(file.relative_to(folder))
    target = to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    taken.pop(name, None)
    try:
        known = identity(file)
        if file.suffix == ".db":
            _back_up(file, target)
        elif file.suffix in _REPLACED and file.is_relative_to(folder / "trials"):
            os.link(file, target)
            known = identity(target)
        else:
            shutil.copyfile(file, target)
    except FileNotFoundError:  # replaced or taken away in between
        return
    taken[name] = Taken(target, known)


def _back_up(database: Path, target: Path) -> None:
    source = sqlite3.connect(database, timeout=SQLITE_TIMEOUT_S)
    with closing(source), closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _belongs(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    passing = any(part.startswith(".") for part in parts) or file.name.endswith(_PASSING)
    return not passing and parts[0] not in _OF_ONE_LIFE and file.is_file()


def _sorted(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
