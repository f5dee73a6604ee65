"""The commands of a study's life: what they print, where to, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from fake_jobs import FakeClient
from kuberay import pod_specs
from typer.testing import CliRunner

from gam_ray.cli import app, common
from gam_ray.cli.watching import status_lines
from gam_ray.study import jobs
from gam_ray.study.errors import StudyError, StudyStoppedError
from gam_ray.study.store import StudyStore
from gam_ray.study.study import Study

URL = "http://head:8265"
Run = Callable[..., Result]
Put = Callable[..., StudyStore]


def after(seconds: float, do: Callable[[], Any]) -> None:
    threading.Timer(seconds, do).start()


# Submit


def test_a_submitted_study_is_told_with_how_to_follow_it(
    gam_ray: Run, client: FakeClient, study: Path
) -> None:
    done = gam_ray("submit", study, "--address", URL)
    assert done.exit_code == 0
    assert "submitted as job digits" in done.stdout
    assert f"gam-ray logs digits --address {URL} --follow" in done.stdout
    again = gam_ray("submit", study, "--address", URL)
    assert again.exit_code == 2
    assert "is pending on http://head:8265 as job digits" in again.stderr
    assert list(client.sent) == ["digits"]


def test_a_study_can_be_printed_for_kubernetes(
    gam_ray: Run, client: FakeClient, study: Path
) -> None:
    study.write_text(study.read_text() + "resources: {max_lanes: 2}\n")
    done = gam_ray("submit", study, "--kubernetes", "--dry-run", "--image", "here/gam-ray:1")
    assert done.exit_code == 0
    config, job = yaml.safe_load_all(done.stdout)
    assert (config["kind"], job["kind"]) == ("ConfigMap", "RayJob")
    for pod in pod_specs(job):
        assert pod["containers"][0]["image"] == "here/gam-ray:1"
    assert not client.sent


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kubernetes"], "--kubernetes --dry-run | kubectl apply -f -"),
        (["--dry-run", "--address", URL], "--dry-run without --kubernetes"),
        (["--dry-run"], "--dry-run without --kubernetes"),
        (["--kubernetes", "--dry-run", "--address", URL], "makes a cluster of its own"),
        (["--kubernetes", "--dry-run"], "resources.max_lanes"),
        ([], "--address must name the cluster's dashboard"),
    ],
)
def test_submit_says_what_it_needs(
    gam_ray: Run, client: FakeClient, study: Path, options: list[str], told: str
) -> None:
    done = gam_ray("submit", study, *options)
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert not client.sent


def test_submit_prints_the_job_as_json(gam_ray: Run, client: FakeClient, study: Path) -> None:
    job = json.loads(gam_ray("submit", study, "--address", URL, "--json").stdout)
    assert set(job) == {
        "study", "job", "attempt", "state", "exit_code", "started", "ended", "folder",
    }  # fmt: skip
    assert client.sent[job["job"]]["metadata"]["gam_ray.folder"] == job["folder"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("SUCCEEDED", 0), 0),
        (("FAILED", 1), 1),
        (("FAILED", 2), 2),
        (("FAILED", 3), 3),
        (("STOPPED", None), 3),
        (("FAILED", None), 1),
    ],
)
def test_waiting_prints_the_log_and_ends_as_the_study_does(
    gam_ray: Run, client: FakeClient, study: Path, end: tuple[str, int | None], code: int
) -> None:
    tail = client.tail_job_logs

    def ends(job: str) -> Any:
        client.print(job, "4 trials at http://ann:pw@mlflow\n")
        client.end(job, *end)
        return tail(job)

    client.tail_job_logs = ends  # type: ignore[method-assign]
    done = gam_ray("submit", study, "--address", URL, "--wait")
    assert done.exit_code == code
    assert "4 trials at http://***@mlflow" in done.stdout


def test_a_storage_that_is_this_machines_is_refused(
    gam_ray: Run, client: FakeClient, study: Path
) -> None:
    study.write_text(study.read_text().replace(f"storage: {study.parent}/", "storage: "))
    done = gam_ray("submit", study, "--address", URL)
    assert done.exit_code == 2
    assert "by its absolute path, such as /mnt/shared/studies" in done.stderr
    assert not client.sent


# Stop


def test_stop_asks_by_the_folder_and_waits_for_the_end(gam_ray: Run, put: Put) -> None:
    store = put("running")

    def hear() -> None:
        while not store.stop_requested():
            time.sleep(0.01)
        put("stopped")

    threading.Thread(target=hear).start()
    done = gam_ray("stop", "digits")
    assert (done.exit_code, done.stdout) == (0, "digits: stopped; resumable\n")


def test_stop_ends_with_1_where_the_study_goes_on(gam_ray: Run, put: Put) -> None:
    store = put("running")
    done = gam_ray("stop", "digits", "--timeout", "0.05", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"study": "digits", "state": "running"}
    assert store.stop_requested()


@pytest.mark.parametrize("state", ["finished", "stopped", "failed", "interrupted"])
def test_what_does_not_run_is_not_asked_to_stop(gam_ray: Run, put: Put, state: str) -> None:
    store = put(state)
    done = gam_ray("stop", "digits")
    assert (done.exit_code, done.stdout.split(";")[0].strip()) == (0, f"digits: {state}")
    assert not store.stop_requested()


def test_stop_with_an_address_lets_ray_interrupt_what_is_not_seen_from_here(
    gam_ray: Run, client: FakeClient, study: Path
) -> None:
    gam_ray("submit", study, "--address", URL)
    assert gam_ray("stop", "digits", "--address", URL).exit_code == 0
    assert client.stops == ["digits"]
    assert gam_ray("stop", study, "--address", URL).exit_code == 0
    assert client.stops == ["digits"]


def test_stop_with_an_address_asks_by_the_folder_first(
    gam_ray: Run, client: FakeClient, study: Path, put: Put
) -> None:
    gam_ray("submit", study, "--address", URL)
    store = put("running")

    def hear() -> None:
        while not store.stop_requested():
            time.sleep(0.01)
        put("stopped")
        client.end("digits", "FAILED", 3)

    threading.Thread(target=hear).start()
    done = gam_ray("stop", "digits", "--address", URL, "--json")
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "stopped")
    assert client.stops == []


# Resume and run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, put: Put) -> list[tuple[str, Any]]:
    """Studies that were run, with their address; each is stopped at once."""
    calls: list[tuple[str, Any]] = []

    def run(self: Study, *, address: str | None = None, listener: Any = None) -> Any:
        calls.append((self.config.name, address))
        listener({"plan": "1 trial at a time"})
        put("stopped")
        raise StudyStoppedError("stopped as asked")

    monkeypatch.setattr(Study, "run", run)
    return calls


def test_what_ray_says_while_a_study_runs_is_not_on_standard_output(
    gam_ray: Run, put: Put, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Study, **__: Any) -> Any:
        sys.stdout.write("(raylet) a node died\n")
        put("finished")
        return {"state": "finished"}

    monkeypatch.setattr(Study, "run", run)
    done = gam_ray("run", study, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"state": "finished"}
    assert "(raylet) a node died" in done.stderr


def test_resume_runs_what_the_folder_holds_and_a_stop_ends_it_with_3(
    gam_ray: Run, put: Put, study: Path, ran: list[tuple[str, Any]]
) -> None:
    put("stopped")
    study.unlink()
    done = gam_ray("resume", "digits")
    assert (done.exit_code, ran) == (3, [("digits", None)])
    assert "gam-ray resume" in done.stderr
    assert gam_ray("resume", "digits", "--address", "auto").exit_code == 3
    assert ran[1] == ("digits", "auto")


@pytest.mark.usefixtures("ran")
def test_a_cluster_gets_the_token_that_is_known_here(
    gam_ray: Run, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(jobs, "is_ray_imported", lambda: False)
    gam_ray("run", study)
    assert "RAY_AUTH_MODE" not in os.environ
    gam_ray("run", study, "--address", "auto")
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_resume_through_a_dashboard_submits_the_next_attempt(
    gam_ray: Run, client: FakeClient, put: Put, study: Path
) -> None:
    gam_ray("submit", study, "--address", URL)
    client.end("digits", "STOPPED", None)
    put("stopped")
    study.unlink()
    assert gam_ray("resume", "digits", "--address", URL).exit_code == 0
    assert list(client.sent) == ["digits", "digits@2"]


def test_what_runs_is_not_resumed_and_who_holds_it_is_told(
    gam_ray: Run, put: Put, ran: list[tuple[str, Any]]
) -> None:
    put("running")
    done = gam_ray("resume", "digits")
    assert (done.exit_code, ran) == (2, [])
    assert "on elsewhere as process 1" in done.stderr


def test_a_run_that_failed_ends_with_1_and_its_log_says_why(
    gam_ray: Run, put: Put, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Study, *, listener: Any, **__: Any) -> Any:
        put("failed")
        listener({"plan": "1 trial at a time"})
        raise StudyError("no worker at http://ann:pw@head")

    monkeypatch.setattr(Study, "run", run)
    done = gam_ray("run", study)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        1, "error: no worker at http://***@head",
    )  # fmt: skip
    log = gam_ray("logs", "digits")
    first, second = log.stdout.splitlines()
    assert first.endswith("INFO gam_ray: plan: 1 trial at a time")
    assert second.endswith("ERROR gam_ray: StudyError: no worker at http://***@head")
    assert "pw" not in (study.parent / "studies" / "digits" / "study.log").read_text()


def test_a_study_that_did_not_begin_leaves_no_log_in_the_folder(
    gam_ray: Run, put: Put, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise ValueError("holds another study")

    store = put("finished")
    monkeypatch.setattr(Study, "run", run)
    assert gam_ray("run", study).exit_code == 2
    assert not (store.folder / "study.log").exists()


def test_run_refuses_a_dashboard_and_names_submit(gam_ray: Run, study: Path) -> None:
    done = gam_ray("run", study, "--address", URL)
    assert done.exit_code == 2
    assert f"gam-ray submit {study} --address {URL}" in done.stderr


# Status, logs, list


@pytest.mark.parametrize(
    ("state", "code"), [("finished", 0), ("failed", 1), ("stopped", 3), ("interrupted", 3)]
)
def test_watch_waits_for_the_end_in_silence_and_ends_as_the_study(
    gam_ray: Run, put: Put, state: str, code: int
) -> None:
    put("running")
    after(0.1, lambda: put(state))
    done = gam_ray("status", "digits", "--watch")
    assert done.exit_code == code
    assert done.stdout.startswith(f"digits: {state} after 1:01:40 h")
    assert len(done.stdout.splitlines()) == 1
    assert gam_ray("status", "digits").exit_code == 0


def test_watch_with_json_prints_one_object(gam_ray: Run, put: Put) -> None:
    put("running")
    after(0.1, lambda: put("finished"))
    assert json.loads(gam_ray("status", "digits", "--watch", "--json").stdout)["study"] == "digits"


def test_logs_follow_a_study_to_its_end(gam_ray: Run, put: Put) -> None:
    store = put("running")
    file = store.folder / "study.log"
    file.write_text("one\n")

    def end() -> None:
        with file.open("a") as log:
            log.write("two\n")
        put("finished")

    after(0.1, end)
    assert gam_ray("logs", "digits", "--follow").stdout == "one\ntwo\n"
    assert json.loads(gam_ray("logs", "digits", "--json").stdout)["log"] == "one\ntwo\n"


def test_logs_of_a_job(gam_ray: Run, client: FakeClient, study: Path) -> None:
    gam_ray("submit", study, "--address", URL)
    client.print("digits", "one\ntwo\n")
    assert gam_ray("logs", "digits", "--address", URL).stdout == "one\ntwo\n"
    assert gam_ray("logs", study, "--address", URL, "-f").stdout == "one\ntwo\n"
    told = json.loads(gam_ray("logs", "digits", "--address", URL, "--json").stdout)
    assert (told["log"], told["state"]) == ("one\ntwo\n", "succeeded")


def test_list_names_every_study_also_what_cannot_be_read(
    gam_ray: Run, put: Put, study: Path
) -> None:
    put("stopped")
    broken = study.parent / "studies" / "broken"
    broken.mkdir()
    (broken / "study.json").write_text("{")
    found = json.loads(gam_ray("list", "--json").stdout)["studies"]
    assert [(each["study"], each["state"]) for each in found] == [
        ("broken", "unreadable"),
        ("digits", "stopped"),
    ]
    assert found[1]["trials"]["planned"] == 13
    table = gam_ray("list").stdout
    assert "0/13" in table
    assert "unreadable" in table


@pytest.mark.usefixtures("client")
def test_list_of_a_cluster(gam_ray: Run, study: Path) -> None:
    assert gam_ray("list", "--address", URL).stdout == f"no studies on {URL}\n"
    gam_ray("submit", study, "--address", URL)
    (job,) = json.loads(gam_ray("list", "--address", URL, "--json").stdout)["jobs"]
    assert (job["job"], job["state"]) == ("digits", "pending")
    assert "digits" in gam_ray("list", "--address", URL).stdout


# Errors, help, completion


@pytest.mark.parametrize(
    "words",
    [
        ["status", "nothing"],
        ["stop", "nothing"],
        ["logs", "nothing"],
        ["resume", "nothing"],
        ["best", "nothing"],
        ["list", "--storage", "nowhere"],
        ["submit", "nothing.yaml", "--address", URL],
        ["doctor", "nothing.yaml"],
        ["stop", "nothing", "--address", URL],
        ["stop", "nothing", "--address", "auto"],
    ],
)
@pytest.mark.usefixtures("study", "client")
def test_what_is_not_there_is_an_input_that_is_not_right(gam_ray: Run, words: list[str]) -> None:
    done = gam_ray(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.output


def test_an_unexpected_error_is_one_screen_and_debug_shows_where(
    gam_ray: Run, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("\n".join(f"line {n} of http://ann:pw@host" for n in range(100)))

    put("finished")
    monkeypatch.setattr("gam_ray.study.results.status", fail)
    done = gam_ray("status", "digits")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) <= common.MOST_LINES + 2
    assert "KeyError" in done.stderr
    assert "--debug shows" in done.stderr
    assert "pw@" not in done.stderr
    assert isinstance(gam_ray("status", "digits", "--debug").exception, KeyError)


def commands() -> dict[str, Any]:
    names = [info.name or info.callback.__name__ for info in app.registered_commands]
    return dict(zip(names, (info.callback for info in app.registered_commands), strict=True))


def test_every_command_has_an_example_and_all_but_ui_print_json(gam_ray: Run) -> None:
    assert set(commands()) == {
        "init", "run", "train", "submit", "resume", "doctor", "status", "list", "logs", "stop",
        "best", "report", "ui", "export", "predict",
    }  # fmt: skip
    for name, command in commands().items():
        assert f"Example: `gam-ray {name}" in command.__doc__
        told = gam_ray(name, "--help").stdout
        assert ("--json" in told) == (name != "ui")
        assert "--debug" in told
    assert "3 stopped, and can be" in gam_ray("--help").stdout


def test_the_guide_tells_every_command_and_exit_code() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in commands() if f"gam-ray {name} " not in guide] == []
    codes = {common.DONE, common.FAILED, common.INVALID, common.STOPPED, common.INTERRUPTED}
    assert [code for code in sorted(codes) if f"| {code} |" not in guide] == []


def test_bash_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GAM_RAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "gam-ray s")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = CliRunner().invoke(app, [], prog_name="gam-ray")
    assert set(done.stdout.split()) == {"submit", "status", "stop"}


def test_the_command_line_starts_without_what_takes_seconds() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'optuna', 'sklearn', 'matplotlib'}"
    code = f"import sys, gam_ray.cli; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_says_what_mlflow_does_not_have() -> None:
    tracking = {"waiting": 12, "failing": True, "last_error": "403: see --allowed-hosts"}
    state = {
        "study": "digits", "state": "running", "elapsed_s": 60.0, "trials": {"running": 1},
        "error": None, "best": None,
        "tracking": {**tracking, "rejected": 1, "last_rejection": "a key is too long"},
    }  # fmt: skip
    assert status_lines(state)[1:] == [
        "MLflow: 12 records wait (403: see --allowed-hosts)",
        "MLflow: 1 records were refused, the last one because a key is too long",
    ]
    quiet = {**state, "tracking": {**tracking, "failing": False, "rejected": 0}}
    assert len(status_lines(quiet)) == 1
