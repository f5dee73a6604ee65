"""A study on S3 that is stopped, loses its machine, and goes on: real Ray, a real S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import SECRET
from test_study_ray import proposals, settings

from gam_ray.cli.common import STOPPED
from gam_ray.config import StudyConfig
from gam_ray.study import results
from gam_ray.study.jobs import study_text
from gam_ray.study.remote import RemoteStore
from gam_ray.study.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

SMALL = {
    "search": {"trials": 3, "seed": 3},
    "objective": {"finalists": 1, "seeds": 1},
    "student": None,
    "schedule": {"kind": "none"},
    "resources": {"workers": 1, "max_lanes": 1},
}
TIMEOUT_S = 600


def run_and_stop(config: StudyConfig, address: str, file: Path) -> str:
    """Run a study in a process of its own, and stop it over S3 in its second searched trial."""
    file.write_text(study_text(config))
    root = Path(__file__).parents[2]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-m", "gam_ray.cli", "run", str(file)],
        env=ours | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not in_second_trial(RemoteStore(address)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "it did not come to the second searched trial"
            time.sleep(1)
        RemoteStore(address).request_stop()
        told = process.communicate(timeout=TIMEOUT_S)[1]
    assert process.returncode == STOPPED, told
    return told


def in_second_trial(store: RemoteStore) -> bool:
    if store.read("study") is None:
        return False
    trials = results.status(store)["trials"]
    return trials["finished"] >= 3 and trials["running"] == 1


def test_a_study_goes_on_from_s3_as_if_nothing_had_been(s3: str, tmp_path: Path) -> None:
    trial = {**settings(tmp_path, "x").trial.to_mapping(), "steps": 800, "report_every": 100}
    undisturbed = Study(settings(tmp_path / "here", "digits", **SMALL, trial=trial))
    undisturbed.run()

    config = settings(s3, "digits", **SMALL, trial=trial)
    address = f"{s3}/digits"
    told = run_and_stop(config, address, tmp_path / "digits.yaml")
    assert f"gam-ray resume {address}" in told
    seen = results.status(RemoteStore(address))
    assert seen["state"] == "stopped"
    assert 3 <= seen["trials"]["finished"] < 5
    assert SECRET not in told + (RemoteStore(address).folder / "study.log").read_text()

    shutil.rmtree(tmp_path / "cache")
    stopped = RemoteStore(address)
    stopped.read("study")
    again = Study.from_folder(stopped.folder)
    choice = again.run()
    assert Path(choice["checkpoint"]).is_file()
    # What the sampler draws after a resume is its own matter; what was begun goes on as it was.
    begun = seen["trials"]["finished"] + 1
    assert proposals(again.store)[:begun] == proposals(undisturbed.store)[:begun]
    assert len(proposals(again.store)) == len(proposals(undisturbed.store)) == 5
    end = RemoteStore(address)
    assert results.status(end)["state"] == "finished"
    assert results.status(end)["tracking"]["waiting"] == 0
    assert proposals(end) == proposals(again.store)
    written = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not any(SECRET.encode() in file.read_bytes() for file in written)
