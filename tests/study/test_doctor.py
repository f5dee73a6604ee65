"""What the doctor says of facts that are given, and of services that answer wrongly."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import StudyConfig
from gam_ray.study import doctor
from gam_ray.study.bucket import Bucket
from gam_ray.study.doctor import GIB, Check, Facts
from gam_ray.study.errors import StudyError

MakeConfig = Callable[..., StudyConfig]
VERSIONS = {"python": "3.11.7", "gam-ray": "0.1.0", "ray": "2.60.0", "torch": "2.15.0"}


def facts(node: str, **changes: Any) -> Facts:
    usual = {"versions": VERSIONS, "gpus": 0, "free_disk": 50 * GIB, "auth_mode": "token"}
    return Facts(node, **{**usual, **changes})


def with_version(node: str, **versions: str) -> Facts:
    return facts(node, versions={**VERSIONS, **versions})


def test_versions_that_are_alike_are_ok_and_told() -> None:
    check = doctor.judge_versions([facts("a"), facts("b")])
    assert (check.state, check.remedy) == ("ok", None)
    assert "ray 2.60.0" in check.found


def test_versions_that_differ_name_the_nodes() -> None:
    check = doctor.judge_versions([facts("a"), with_version("b", torch="2.11.0"), facts("c")])
    assert check.state == "failed"
    assert check.found == "torch: 2.15.0 on a/c, 2.11.0 on b"
    assert check.remedy


def test_a_package_that_is_missing_names_its_node_and_code_that_came_along_does_not() -> None:
    missing = doctor.judge_versions([facts("a"), with_version("b", ray="none")])
    assert (missing.state, missing.found) == ("failed", "missing: ray on b")
    came_along = {**VERSIONS, "gam-ray": "none"}
    assert doctor.judge_versions([facts("a"), facts("b", versions=came_along)]).state == "ok"


def test_packages_that_are_not_compiled_name_their_nodes() -> None:
    slow = doctor.judge_bytecode([facts("a"), facts("b", has_bytecode=False)])
    assert (slow.state, slow.found.split(" every")[0]) == ("warning", "on b")
    assert "--compile-bytecode" in (slow.remedy or "")
    assert doctor.judge_bytecode([facts("a")]).state == "ok"


@pytest.mark.parametrize("writes", [True, False])
def test_what_is_compiled_is_seen_where_it_is_kept(tmp_path: Path, writes: bool) -> None:
    (tmp_path / "package.py").write_text("")
    code = (
        "import package, sys; from gam_ray.study.doctor import _has_bytecode; "
        "sys.exit(not _has_bytecode(package))"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "" if writes else "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == (not writes)


def test_gpus_that_torch_does_not_see_fail(make_config: MakeConfig) -> None:
    check = doctor.judge_gpus(
        [facts("a", gpus=2, ray_gpus=2.0), facts("b", gpus=0, ray_gpus=1.0)], make_config()
    )
    assert (check.state, check.found) == ("failed", "b: Ray has 1, torch sees 0")
    assert "nvidia-smi" in (check.remedy or "")


def test_gpus_that_a_study_asks_for_or_leaves_idle(make_config: MakeConfig) -> None:
    asks = make_config(resources={"gpus_per_worker": 1.0})
    assert doctor.judge_gpus([facts("a")], asks).state == "failed"
    assert doctor.judge_gpus([facts("a", gpus=1)], asks).state == "ok"
    assert doctor.judge_gpus([facts("a", gpus=1)], make_config()).state == "warning"
    shares = make_config(resources={"gpus_per_worker": 0.25})
    alone = doctor.judge_gpus([facts("a", gpus=1), facts("b", gpus=1, has_mps=True)], shares)
    assert alone.state == "warning"
    assert "without MPS on a" in alone.found
    assert "nvidia-cuda-mps-control" in alone.remedy
    assert doctor.judge_gpus([facts("b", gpus=1, has_mps=True)], shares).state == "ok"
    assert doctor.judge_gpus([facts("a")], make_config()).state == "ok"
    assert doctor.judge_gpus([facts("a", gpus=1)], None).state == "ok"


@pytest.mark.parametrize(
    ("gib", "state"), [(50, "ok"), (10, "ok"), (9.9, "warning"), (1, "warning"), (0.9, "failed")]
)
def test_the_node_with_the_least_room_decides(gib: float, state: str) -> None:
    check = doctor.judge_disk([facts("a"), facts("b", free_disk=int(gib * GIB))])
    assert check.state == state
    assert (check.remedy is None) == (state == "ok")


@pytest.mark.parametrize(
    ("modes", "own", "state"),
    [
        (["token", "token"], False, "ok"),
        (["token", "not set"], False, "failed"),
        (["disabled"], False, "warning"),
        (["not set"], False, "warning"),
        (["not set"], True, "ok"),
        (["disabled"], True, "warning"),
    ],
)
def test_a_cluster_without_a_token_is_open(modes: list[str], own: bool, state: str) -> None:
    nodes = [facts(f"n{number}", auth_mode=mode) for number, mode in enumerate(modes)]
    assert doctor.judge_auth(nodes, own=own).state == state


def test_the_plan_is_told_or_why_there_is_none(make_config: MakeConfig) -> None:
    config = make_config(resources={"workers": 2, "max_lanes": 2})
    plan, memory = doctor.judge_plan(config, [{"CPU": 8.0, "memory": 64.0 * GIB}])
    assert plan.found.startswith("2 trials at a time")
    assert (plan.state, memory.state) == ("ok", "ok")
    (none,) = doctor.judge_plan(config, [{"CPU": 1.0, "memory": 64.0 * GIB}])
    assert none.state == "failed"
    assert "one trial needs 2 CPUs" in none.found


def test_too_little_memory_names_the_lanes_that_fit(make_config: MakeConfig) -> None:
    config = make_config(search={"trials": 20})
    cluster = {"CPU": 16.0, "memory": 8.0 * GIB}
    _, memory = doctor.judge_plan(config, [cluster])
    assert memory.state == "warning"
    # 1.5 GiB for the study and 1.3 for each lane of one worker.
    assert "resources.max_lanes: 5," in (memory.remedy or "")
    fits = make_config(search={"trials": 20}, resources={"max_lanes": 5})
    assert [check.state for check in doctor.judge_plan(fits, [cluster])] == ["ok", "ok"]


def test_nodes_that_are_silent_fail_with_why() -> None:
    names = {"1": "a (10.0.0.1)", "2": "b (10.0.0.2)"}
    assert doctor.judge_nodes(names, {}).found == "2 nodes answered"
    check = doctor.judge_nodes(names, {"2": "no answer within 120 s"})
    assert (check.state, check.found) == ("failed", "b (10.0.0.2): no answer within 120 s")


def test_storage_that_is_not_shared_names_reader_and_writer() -> None:
    names = {"1": "a", "2": "b"}
    shared = doctor.judge_seen(names, {"1": [], "2": []}, Path("/mnt"))
    assert shared.state == "ok"
    check = doctor.judge_seen(names, {"1": [], "2": ["1"]}, Path("/mnt"))
    assert (check.state, check.found) == ("failed", "b does not see what a wrote")
    assert "mount one shared folder" in (check.remedy or "")


def test_a_probe_is_seen_only_with_what_was_written(tmp_path: Path) -> None:
    assert doctor.write_probe(tmp_path / "new", "one") is None
    assert doctor.unseen_probes(tmp_path / "new", ["one", "two"], within_s=0) == ["two"]
    (tmp_path / "new" / "two").write_text("tw")
    assert doctor.unseen_probes(tmp_path / "new", ["one", "two"], within_s=0) == ["two"]
    (tmp_path / "file").touch()
    assert "exists" in (doctor.write_probe(tmp_path / "file", "one") or "")


def test_storage_here_leaves_nothing_behind(tmp_path: Path) -> None:
    assert doctor.check_storage_here(tmp_path / "studies").state in ("ok", "warning")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    check = doctor.check_storage_here(tmp_path / "file")
    assert check.state == "failed"
    assert "let the user that runs Ray write" in (check.remedy or "")


class OneByOne:
    """Nodes in this process, of which some lack the keys of the bucket."""

    names: ClassVar = {"1": "a", "2": "b"}

    def __init__(self, monkeypatch: pytest.MonkeyPatch, blind: str | None) -> None:
        self._monkeypatch = monkeypatch
        self._blind = blind

    def ask(
        self, function: Any, *arguments: Any, nodes: list[str], each: Any = None, **_: Any
    ) -> tuple[dict[str, Any], dict[str, str]]:
        answers = {}
        for node in nodes:
            with self._monkeypatch.context() as patched:
                if node == self._blind:
                    patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
                more = (each(node),) if each else ()
                answers[node] = function(*arguments, *more)
        return answers, {}


@pytest.mark.parametrize(("blind", "state"), [(None, "ok"), ("2", "failed")])
def test_a_bucket_is_written_by_each_node_and_read_by_the_others(
    s3: str, monkeypatch: pytest.MonkeyPatch, blind: str | None, state: str
) -> None:
    nodes: Any = OneByOne(monkeypatch, blind)
    check = doctor.check_shared_storage(nodes, ["1", "2"], s3)
    assert check.state == state
    assert (blind is None) == ("each of 2 nodes reads" in check.found)
    assert blind is None or check.found.startswith("b: storage: s3://")
    assert not Bucket(s3).folders()


def test_data_that_is_missing_is_told_once_for_the_nodes_that_lack_it() -> None:
    assert doctor.judge_data({"a": None, "b": None}).state == "ok"
    check = doctor.judge_data({"a": "no mnist", "b": None, "c": "no mnist"})
    assert (check.state, check.found) == ("failed", "a, c: no mnist")


def test_the_domains_own_loader_says_that_data_is_missing(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    folder = {"source": "segmentation-folder:nowhere", "target": "segmentation-folder:nowhere"}
    config = make_config(trial={"task": folder, "steps": 10, "report_every": 10})
    assert "nowhere" in (doctor.data_problem(config, tmp_path) or "")
    small = {"source": "handwritten-digits", "target": "handwritten-digits"}
    assert doctor.data_problem(make_config(trial={"task": small}), tmp_path) is None


# MLflow


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Starts a server that answers everything alike; its address."""
    servers: list[http.server.HTTPServer] = []
    asked: list[Any] = []

    def start(code: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.headers)
                allowed = code != 401 or self.headers["Authorization"] == "Basic YW5uOnB3"
                self.send_response(200 if allowed and code == 401 else code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Answering = Callable[[int, bytes], str]


def test_mlflow_that_answers_is_ok(answering: Answering) -> None:
    assert doctor.check_mlflow(answering(200, b'{"experiments": []}')).state == "ok"
    assert doctor.check_mlflow(None).state == "ok"


def test_mlflow_that_refuses_the_host_gets_the_option_that_allows_it(answering: Answering) -> None:
    uri = answering(403, b"Invalid Host header")
    check = doctor.check_mlflow(uri)
    assert (check.state, check.found) == ("failed", f"{uri} answers 403")
    assert "--allowed-hosts" in (check.remedy or "")
    assert uri.removeprefix("http://") in (check.remedy or "")


def test_mlflow_that_wants_a_user_gets_what_the_environment_has(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = answering(401, b"{}")
    assert "MLFLOW_TRACKING_USERNAME" in (doctor.check_mlflow(uri).remedy or "")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    assert doctor.check_mlflow(uri).state == "ok"


def test_mlflow_that_is_down_or_something_else(answering: Answering) -> None:
    down = doctor.check_mlflow("http://ann:pw@127.0.0.1:1")
    assert down.state == "failed"
    assert "pw@" not in down.found
    assert "mlflow server" in (down.remedy or "")
    other = doctor.check_mlflow(answering(200, b"<html>"))
    assert "not as MLflow does" in other.found


# The report


def test_the_report_is_found_in_what_a_job_printed() -> None:
    check = Check("gpus", "failed", "found {", "remedy")
    printed = json.dumps({"ok": False, "checks": [check.to_mapping()]}, indent=2)
    text = f'Running entrypoint: x\n{{ no json\n{{"other": 1}}\n{printed}\nINFO bye\n'
    assert doctor.parse_report(text) == [check]
    with pytest.raises(StudyError, match=r"No module named 'pydantic'"):
        doctor.parse_report("Running\nModuleNotFoundError: No module named 'pydantic'\n")


def run_doctor(*words: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *words])


def test_the_doctor_ends_with_1_if_something_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_doctor("--json")
    content = json.loads(found.stdout)
    assert {check["name"] for check in content["checks"]} == {
        "versions",
        "bytecode",
        "gpus",
        "disk",
        "auth",
    }
    assert (found.exit_code, content["ok"]) == (0, True)
    usual = doctor.facts_here()
    monkeypatch.setattr(doctor, "facts_here", lambda: replace(usual, free_disk=1))
    failed = run_doctor()
    assert failed.exit_code == 1
    assert "→ make room" in failed.stdout
    assert json.loads(run_doctor("--json").stdout)["ok"] is False


def test_the_doctor_checks_a_study_here_without_ray(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: a\ntrial: {task: {source: rendered-digits, target: handwritten-digits}}\n"
        f"space: {{adaptation.weight: {{log: [0.1, 10]}}}}\nstorage: {tmp_path}/studies\n"
        "tracking: {uri: 'http://127.0.0.1:1'}\n"
    )
    found = run_doctor(str(file), "--json")
    states = {check["name"]: check["state"] for check in json.loads(found.stdout)["checks"]}
    assert set(states) == {
        "versions", "bytecode", "gpus", "disk", "auth", "plan", "memory", "storage", "mlflow",
        "data",
    }  # fmt: skip
    assert (states["mlflow"], states["data"], found.exit_code) == ("failed", "ok", 1)
