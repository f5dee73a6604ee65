"""Studies as jobs: what is sent, under which id, and what becomes of it."""

from __future__ import annotations

import http.server
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_jobs import FakeClient

from gam_ray.config import StudyConfig, load_study_config
from gam_ray.study import jobs as jobs_module
from gam_ray.study.errors import StudyError
from gam_ray.study.jobs import Jobs, check_for_cluster, study_text, use_token
from gam_ray.study.study import Study

URL = "http://head:8265"
MakeConfig = Callable[..., StudyConfig]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "POLL_S", 0.01)
    monkeypatch.setattr(jobs_module, "RECONNECT_S", 0.01)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def jobs(client: FakeClient) -> Jobs:
    return Jobs(URL, client)


def test_the_name_is_the_id_and_one_file_travels(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    job = jobs.submit(make_config(), data_root=Path("/data sets"))
    sent = client.sent["a-study"]
    assert (job.job, job.study, job.attempt, job.state) == ("a-study", "a-study", 1, "pending")
    assert list(sent["files"]) == ["a-study.yaml"]
    assert sent["entrypoint"] == (
        "exec python -m gam_ray.cli run a-study.yaml --address auto --data-root '/data sets'"
    )
    env = sent["runtime_env"]
    assert env["env_vars"] == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    (code,) = env["py_modules"]
    assert (Path(code) / "study" / "jobs.py").samefile(jobs_module.__file__)
    assert job.folder == str(make_config().folder)


def test_where_the_image_has_the_code_it_does_not_travel(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    jobs.submit(make_config(), send_code=False)
    assert "py_modules" not in client.sent["a-study"]["runtime_env"]


def test_a_study_that_runs_is_not_submitted_again(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    jobs.submit(make_config())
    with pytest.raises(ValueError, match=r"'a-study' is pending on http://head:8265 as job a-st"):
        jobs.submit(make_config())
    assert list(client.sent) == ["a-study"]


def test_of_two_submits_at_once_one_is_told_who_holds_the_study(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    def other() -> None:
        client.before_submit = lambda: None
        Jobs(URL, client).submit(make_config())

    client.before_submit = other
    with pytest.raises(ValueError, match="'a-study' is pending on"):
        jobs.submit(make_config())
    assert list(client.sent) == ["a-study"]


@pytest.mark.parametrize("end", [("SUCCEEDED", 0), ("STOPPED", None), ("FAILED", 1)])
def test_one_that_ended_goes_on_as_the_next_attempt(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig, end: tuple[str, int | None]
) -> None:
    jobs.submit(make_config())
    jobs.submit(make_config(name="a-study-2"))
    for expected in ("a-study@2", "a-study@3"):
        client.end(jobs.find("a-study").job, *end)
        assert jobs.submit(make_config()).job == expected
    assert jobs.find("a-study").attempt == 3
    assert jobs.find("a-study-2").attempt == 1
    assert [job.job for job in jobs.studies()] == ["a-study", "a-study-2", "a-study@2", "a-study@3"]


def test_the_exit_code_3_is_a_study_that_was_stopped(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    jobs.submit(make_config())
    client.end("a-study", "FAILED", 3, "failed with exit code 3, see http://ann:pw@mlflow")
    job = jobs.find("a-study")
    assert (job.state, job.exit_code, job.ended) == ("stopped", 3, 9.0)
    assert "pw" not in job.message


def test_what_the_cluster_does_not_know_is_told_with_what_it_knows(
    jobs: Jobs, make_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match=r"no study 'b' on http://head:8265; it knows: none"):
        jobs.find("b")
    jobs.submit(make_config())
    with pytest.raises(ValueError, match="it knows: a-study"):
        jobs.find("b")


def test_following_passes_on_each_character_once_over_lost_connections(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    jobs.submit(make_config())
    client.print("a-study", "first line\nsecond line\nthird line\n")
    client.breaks = 2
    told: list[str] = []
    assert jobs.follow("a-study", told.append).state == "succeeded"
    assert "".join(told) == "first line\nsecond line\nthird line\n"


def test_a_stop_waits_for_the_end_and_no_longer_than_asked(
    jobs: Jobs, client: FakeClient, make_config: MakeConfig
) -> None:
    jobs.submit(make_config())
    client.ended_at_stop = False
    assert jobs.stop("a-study", 0.03).is_live
    client.ended_at_stop = True
    assert jobs.stop("a-study", 60).state == "stopped"
    assert client.stops == ["a-study"] * 2


# The file that travels


def load_text(folder: Path, text: str) -> StudyConfig:
    (folder / "sent.yaml").write_text(text, encoding="utf-8")
    return load_study_config(folder / "sent.yaml")


def test_the_sent_file_is_the_same_study_with_the_same_seeds(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "adaptation.weight: {log: [1e-5, 10]}\nadaptation.adversary: {choice: [gan, lsgan]}\n"
    )
    (tmp_path / "study.yaml").write_text(
        "name: a\ntrial: {task: {source: a, target: b}, adaptation: {form: release}}\n"
        "space: space.yaml\nsearch: {seed: 4}\ntracking: {experiment: '1e3'}\nstorage: /s\n"
    )
    config = load_study_config(tmp_path / "study.yaml")
    sent = load_text(tmp_path, study_text(config))
    assert sent == config
    # Its trials' seed derives from the study's, as it does without a cluster.
    assert Study(sent).config.key() == Study(config).config.key()
    assert "seed" not in sent.trial.model_fields_set


def test_a_study_taken_up_from_its_folder_is_the_same(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    config = Study(make_config()).config
    assert load_text(tmp_path, study_text(config)).key() == config.key()


@pytest.mark.parametrize(
    ("changes", "data_root", "told"),
    [
        ({"storage": "studies"}, None, r"storage: must be a folder that all nodes see.*'studies'"),
        ({"storage": "~/studies"}, None, "storage: must be a folder"),
        ({"tracking": {"uri": "sqlite:///mlflow.db"}}, None, "tracking.uri: must be an address"),
        ({"tracking": {"uri": "mlruns"}}, None, "tracking.uri: must be an address"),
        ({}, Path("data"), "--data-root: must be an absolute path"),
    ],
)
def test_what_only_this_machine_would_find_is_refused(
    make_config: MakeConfig, changes: Any, data_root: Path | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        check_for_cluster(make_config(**changes), data_root)


def test_what_a_cluster_finds_is_taken(make_config: MakeConfig) -> None:
    check_for_cluster(make_config(tracking={"uri": "sqlite:////mnt/mlflow.db"}), Path("/data"))
    check_for_cluster(make_config(storage="s3://bucket/studies"))


# Addresses and tokens


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head:10001", ""])
def test_only_a_dashboard_takes_jobs(address: str) -> None:
    with pytest.raises(ValueError, match="must be that of the cluster's dashboard"):
        Jobs(address)


def test_nobody_there_is_told_with_a_remedy() -> None:
    with pytest.raises(StudyError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:1 "):
        Jobs("http://127.0.0.1:1")


@pytest.fixture
def guarded() -> Iterator[str]:
    """A dashboard that wants another token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_token_that_is_not_taken_is_told_without_showing_it(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret-of-32-characters-......")
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(StudyError, match=r"wants a token, and got none or another") as error:
        Jobs(guarded)
    assert "a-secret" not in str(error.value)


@pytest.mark.parametrize("where", ["variable", "path", "home"])
def test_a_known_token_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(jobs_module, "is_ray_imported", lambda: False)
    use_token()
    assert "RAY_AUTH_MODE" not in os.environ
    if where == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    elif where == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/token")
    else:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x" * 32)
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_MODE")
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_no_mode_is_set_for_a_ray_that_has_read_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray", ModuleType("ray")))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    use_token()
    assert "RAY_AUTH_MODE" not in os.environ
