"""A study in a folder of studies, and a cluster in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_jobs import FakeClient
from typer.testing import CliRunner

from gam_ray.cli import app, cluster, watching
from gam_ray.config import load_study_config
from gam_ray.study import jobs
from gam_ray.study.store import StudyStore

TEXT = """\
name: digits
trial: {task: {source: rendered-digits, target: handwritten-digits}}
space: {adaptation.weight: {log: [0.1, 10]}}
search: {trials: 4}
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (jobs, "POLL_S"),
        (jobs, "RECONNECT_S"),
        (cluster, "POLL_S"),
        (watching, "EVERY_S"),
    ):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """What answers at every dashboard's address."""
    fake = FakeClient()
    monkeypatch.setattr(jobs, "_client", lambda _: fake)
    return fake


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file beside its storage, which is the current folder's default."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "digits.yaml"
    file.write_text(f"{TEXT}storage: {tmp_path}/studies\n")
    return file


@pytest.fixture
def put(study: Path) -> Callable[..., StudyStore]:
    """Puts the study into its folder in a state, as its own process would."""
    config = load_study_config(study)

    def put_in(state: str, **more: Any) -> StudyStore:
        store = StudyStore(config.folder)
        content = {"key": config.key(), "config": config.to_mapping()}
        store.write("study", {**content, "trials": config.planned_trials})
        now = time.time()
        told = {"state": state, "started": now - 3700, "host": "elsewhere", "pid": 1, "beat": now}
        ended = {} if state == "running" else {"ended": now}
        store.write("state", {**told, **ended, **more})
        return store

    return put_in


@pytest.fixture
def gam_ray() -> Callable[..., Result]:
    """The command line."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
