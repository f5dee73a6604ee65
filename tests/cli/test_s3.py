"""Commands on a study whose storage is a bucket, from a machine that did not run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from s3_server import SECRET

from gam_ray.config import load_study_config
from gam_ray.study.bucket import Bucket
from gam_ray.study.mirror import STOP
from gam_ray.study.store import StudyStore
from gam_ray.study.study import Study

Run = Callable[..., Result]


@pytest.fixture
def running(study: Path, s3: str, put: Callable[..., StudyStore]) -> str:
    """The address of a study that says that it runs elsewhere."""
    study.write_text(study.read_text().replace(f"{study.parent}/studies", s3))
    config = load_study_config(study)
    with Study(config).on_storage():
        local = put("running")
        content = {"key": config.key(), "config": config.to_mapping()}
        store = StudyStore(config.folder)
        store.write("study", {**content, "trials": config.planned_trials})
        store.write("state", local.read("state") or {})
        (store.folder / "study.log").write_text("a line\n")
    shutil.rmtree(config.folder)
    return f"{s3}/digits"


def test_a_study_is_found_by_its_address_its_file_or_its_name(
    running: str, study: Path, gam_ray: Run
) -> None:
    storage = running.rpartition("/")[0]
    for words in ([running], [study], ["digits", "--storage", storage]):
        done = gam_ray("status", *words, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "running"
    (found,) = json.loads(gam_ray("list", "--storage", storage, "--json").stdout)["studies"]
    assert (found["study"], found["state"]) == ("digits", "running")
    assert gam_ray("logs", running).stdout == "a line\n"


def test_a_stop_is_left_in_the_bucket(running: str, gam_ray: Run) -> None:
    done = gam_ray("stop", running, "--timeout", "0")
    assert (done.exit_code, "still runs" in done.stderr) == (1, True)
    assert Bucket(running).read(STOP) is not None


def test_a_study_that_runs_is_not_resumed(running: str, gam_ray: Run) -> None:
    done = gam_ray("resume", running)
    assert done.exit_code == 2
    assert f"the study in {running} is running, on elsewhere as process 1" in done.stderr


@pytest.mark.parametrize("command", ["status", "stop", "logs", "resume", "best"])
def test_a_bucket_that_is_not_there_is_one_screen(s3: str, gam_ray: Run, command: str) -> None:
    done = gam_ray(command, "s3://nowhere/digits")
    assert done.exit_code == 2
    assert "no 'nowhere'; make it" in done.stderr
    none = gam_ray(command, f"{s3}/digits")
    assert none.exit_code == 2
    assert "no study in" in none.stderr
    assert SECRET not in done.output + none.output


def test_the_doctor_writes_and_reads_a_bucket(
    running: str, study: Path, gam_ray: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def storage() -> dict[str, str]:
        checks = json.loads(gam_ray("doctor", study, "--json").stdout)["checks"]
        return next(check for check in checks if check["name"] == "storage")

    before = Bucket(running.rpartition("/")[0]).keys("").keys()
    assert storage()["state"] == "ok"
    assert Bucket(running.rpartition("/")[0]).keys("").keys() == before
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = storage()
    assert away["state"] == "failed"
    assert "AWS_ENDPOINT_URL" in away["remedy"]
