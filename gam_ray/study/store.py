"""What a study keeps on its storage: the only truth about it, for every process that asks.

::

    STUDY/
      study.json            the settings, and what identifies them
      state.json            running, finished, failed, interrupted, stopped; when; where
      stop.json             that it is to stop, and who asks for it
      study.log             what the command line was told while it ran
      broker.json           what the broker holds beside trials and reports
      result.json           the choice, once made
      report.html           the page about it, and overview.png, a picture
      trials/KEY/trial.json      number, name, settings, whole configuration
      trials/KEY/reports.jsonl   one line a report
      trials/KEY/predictions.npy softmax on the held-out target, of the report that is kept
      trials/KEY/adapted.pt      the network of that report, which the trial ends with
      trials/KEY/checkpoint.pt   the newest checkpoint, from which it goes on
      trials/KEY/exhibits.npz    what it leaves for people to look at
      trials/KEY/end.json        how it ended, and the oracle's reading
      plots/                its charts, as files of their own
      pictures/KEY/         pictures of a trial that ended
      sources/              source networks (may be shared by other studies)
      tracking/             what MLflow has been told, or will be
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gam_ray.config import TrialConfig
from gam_ray.tracking.files import JsonLines, replace_json

TrialState = Literal["planned", "running", "finished", "pruned", "failed"]
EndState = Literal["finished", "pruned", "failed"]
Role = Literal["no adaptation", "gaussian", "search", "generation", "again", "student"]
ROLES: tuple[Role, ...] = get_args(Role)
# Of those whose settings are their own, and not a baseline's or a student's.
WITH_SETTINGS: tuple[Role, ...] = ("search", "generation", "again")
StudyFile = Literal["study", "state", "result", "stop", "broker"]


@dataclass(frozen=True)
class TrialRecord:
    """What a trial is.

    Attributes:
        key: Hash of `config`; names the trial everywhere.
        number: 0, 1, … in the order of submission.
        role: A baseline's, ``search``, ``generation`` (goes on from another trial, in
            population-based training), ``again`` (a finalist on a fresh seed), or ``student``.
        settings: What was chosen for it, by dotted path; empty for a baseline.
        config: All of it.
    """

    key: str
    number: int
    role: Role
    settings: dict[str, Any]
    config: TrialConfig

    @property
    def name(self) -> str:
        """The name that people see: ``07`` and what kind of trial it is."""
        if self.role not in WITH_SETTINGS:
            return f"{self.number:02d} {self.role}"
        adaptation = self.config.adaptation
        matching = "gaussian+" if adaptation.gaussian else ""
        layers = "+".join(adaptation.layers)
        own = {"again": " again", "generation": f" to step {self.config.steps}"}.get(self.role, "")
        return f"{self.number:02d} {matching}{adaptation.adversary} {layers}{own}"

    @property
    def has_vote(self) -> bool:
        """Whether it may vote in a consensus; a student only repeats its teachers."""
        return self.role != "student"


@dataclass(frozen=True)
class ReportRecord:
    """One report, as it was stored.

    Attributes:
        step: Adaptation steps done.
        metrics: Losses, health and label-free scores by name.
        time: Seconds since the epoch.
        kept: Whether it was the best of its trial when it came; the last such one counts.
    """

    step: int
    metrics: dict[str, float]
    time: float
    kept: bool = True


@dataclass(frozen=True)
class EndRecord:
    """How a trial ended.

    Attributes:
        state: ``finished``, ``pruned`` (stopped by the schedule) or ``failed``.
        step: Adaptation steps done.
        seconds: From its start in a lane to its end.
        error: Why it failed.
        oracle: Target split → accuracy in [0, 1]; None where there are no labels.
        time: When, in seconds since the epoch.
    """

    state: EndState
    step: int
    seconds: float
    error: str | None = None
    oracle: dict[str, float] | None = None
    time: float = 0.0


@dataclass
class TrialFiles:
    """The files of one trial."""

    folder: Path
    _reports: JsonLines = field(init=False)

    def __post_init__(self) -> None:
        self._reports = JsonLines(self.folder / "reports.jsonl")

    @property
    def adapted(self) -> Path:
        """The network that the trial ends with, written by the trial itself."""
        return self.folder / "adapted.pt"

    @property
    def exhibits(self) -> Path:
        """What the trial leaves for people to look at, see `training.exhibits`; may be missing."""
        return self.folder / "exhibits.npz"

    def create(self, record: TrialRecord) -> None:
        """Make the folder and write what the trial is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "key": record.key,
            "number": record.number,
            "role": record.role,
            "settings": record.settings,
            "config": record.config.to_mapping(),
        }
        replace_json(self.folder / "trial.json", content)

    def record(self) -> TrialRecord:
        """What the trial is."""
        content = json.loads((self.folder / "trial.json").read_text())
        return TrialRecord(**{**content, "config": TrialConfig.from_mapping(content["config"])})

    def append_report(self, report: ReportRecord, predictions: NDArray[np.float32]) -> None:
        """Store a report durably; it counts only after this returned."""
        if report.kept:
            draft = self.folder / ".predictions.npy"
            with draft.open("wb") as file:
                np.save(file, predictions)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / "predictions.npy")
        self._reports.append(asdict(report))

    def reports(self) -> list[ReportRecord]:
        """All reports, by step."""
        return [ReportRecord(**json.loads(line)) for _, line in self._reports.read(0)]

    def kept(self) -> ReportRecord | None:
        """The report whose network the trial ends with, or None before the first."""
        return next((report for report in reversed(self.reports()) if report.kept), None)

    def predictions(self) -> NDArray[np.float32] | None:
        """Softmax [N, C] of the report that is kept, or None before the first."""
        file = self.folder / "predictions.npy"
        if not file.exists():
            return None
        predictions: NDArray[np.float32] = np.load(file, allow_pickle=False)
        return predictions

    def write_end(self, end: EndRecord) -> None:
        """Store how the trial ended."""
        replace_json(self.folder / "end.json", asdict(end))
        self._reports.close()

    def end(self) -> EndRecord | None:
        """How the trial ended, or None while it has not."""
        file = self.folder / "end.json"
        return EndRecord(**json.loads(file.read_text())) if file.exists() else None

    def state(self) -> TrialState:
        """Where the trial is in its life."""
        end = self.end()
        if end:
            return end.state
        return "running" if (self.folder / "started").exists() else "planned"

    def mark_started(self) -> None:
        """Remember that a lane took the trial."""
        (self.folder / "started").touch()


class StudyStore:
    """The folder of one study.

    Args:
        folder: The study's own.
        address: By which people find it, where that is not the folder.
    """

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder = folder
        self.address = address or str(folder)

    @property
    def page(self) -> Path:
        """The page about the study, which may not be there."""
        return self.folder / "report.html"

    @property
    def pictures(self) -> Path:
        """Folder of pictures, in a folder of each trial's; see `study.pictures`."""
        return self.folder / "pictures"

    @property
    def plots(self) -> Path:
        """Folder of the page's charts as files of their own."""
        return self.folder / "plots"

    @property
    def tracking(self) -> Path:
        """Folder of the tracking queue."""
        return self.folder / "tracking"

    def trial(self, key: str) -> TrialFiles:
        """The files of the trial with this key, there or not."""
        return TrialFiles(self.folder / "trials" / key)

    def trials(self) -> list[TrialFiles]:
        """The files of all trials, in the order of submission."""
        folders = [file.parent for file in (self.folder / "trials").glob("*/trial.json")]
        found = [TrialFiles(folder) for folder in folders]
        return sorted(found, key=lambda files: files.record().number)

    def read(self, name: StudyFile) -> dict[str, Any] | None:
        """One of the study's own JSON files, or None if it is not there."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            return None
        content: dict[str, Any] = json.loads(file.read_text())
        return content

    def write(self, name: StudyFile, content: dict[str, Any]) -> None:
        """Replace one of the study's own JSON files in one go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_json(self.folder / f"{name}.json", content)

    def fetch(self, file: Path) -> None:
        """Have a network of the study in its file here: it is, but for a study on S3."""

    def request_stop(self) -> None:
        """Ask the process that runs the study to stop in order, from any machine."""
        self.write("stop", stop_request())

    def stop_requested(self) -> bool:
        """Whether somebody asks the study to stop."""
        return (self.folder / "stop.json").exists()

    def forget_stop(self) -> None:
        """Take back what asked for a stop: the study was started after it."""
        (self.folder / "stop.json").unlink(missing_ok=True)


def stop_request(**told: str) -> dict[str, Any]:
    """What `stop.json` says when this process asks for a stop: who asks, and what else is told."""
    return {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), **told}
