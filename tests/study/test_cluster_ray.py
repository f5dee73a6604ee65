"""The life of a study on a real cluster of three nodes, guarded by a token, from outside of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

TOKEN = "0123456789abcdef" * 4
START_S, END_S = 120, 600
STUDY = """\
name: digits
trial:
  task: {{source: rendered-digits, target: handwritten-digits}}
  pretraining: {{steps: 30, batch_size: 32}}
  steps: 240
  report_every: 20
  batch_size: 16
space:
  adaptation.weight: {{log: [1, 100]}}
  adaptation.layers: {{subset: [fc3, fc4], min: 1}}
search: {{trials: 3, seed: 3}}
objective: {{finalists: 1, seeds: 1}}
student: null
resources: {{cpus_per_worker: 0.5, max_lanes: 1}}
storage: {storage}
"""

GamRay = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment() -> dict[str, str]:
    """With this interpreter as `python`, and without what another Ray here has set."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return ours | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def start_node(*options: str) -> subprocess.Popen[bytes]:
    """A node that lives as long as this process group: no `ray stop`, which ends all of them."""
    return subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--num-cpus=1", "--block"],
        env=environment() | {"RAY_AUTH_MODE": "token"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(node: subprocess.Popen[bytes]) -> None:
    os.killpg(node.pid, signal.SIGTERM)
    try:
        node.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster's dashboard.

    Each node has files of its own, as on machines of their own: in one folder, each would unpack
    a job's code over the other's, under running processes.
    """
    port, url_port = free_port(), free_port()
    folders = [tmp_path_factory.mktemp(name, numbered=False) for name in ("r1", "r2", "r3")]
    url = f"http://127.0.0.1:{url_port}"
    head = start_node(
        "--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folders[0]}",
        f"--dashboard-port={url_port}", f"--ray-client-server-port={free_port()}",
    )  # fmt: skip
    nodes = [head]
    try:
        wait_for(lambda: head.poll() is not None or answers(url))
        assert head.poll() is None, "the head did not start"
        nodes += [
            start_node(
                f"--address=127.0.0.1:{port}", f"--node-ip-address=127.0.0.{number}",
                f"--temp-dir={folders[number - 1]}",
            )
            for number in (2, 3)
        ]  # fmt: skip
        yield url
    finally:
        for node in reversed(nodes):
            end(node)


def answers(url: str) -> bool:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    try:
        return requests.get(f"{url}/api/jobs/", headers=bearer, timeout=5).ok
    except requests.RequestException:
        return False


def wait_for(done: Callable[[], Any], timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def gam_ray() -> GamRay:
    """The command line in a process of its own, with the token in its environment."""

    def call(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gam_ray.cli", *map(str, words)],
            env=environment() | changes,
            capture_output=True,
            text=True,
            check=False,
            timeout=END_S,
        )

    return call


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my cluster")
    file = folder / "digits.yaml"
    file.write_text(STUDY.format(storage=folder / "studies"))
    return file


def test_who_has_no_token_is_not_let_in(dashboard: str, gam_ray: GamRay) -> None:
    done = gam_ray("list", "--address", dashboard, RAY_AUTH_TOKEN="another" * 8)
    assert done.returncode == 1
    assert "wants a token" in done.stderr
    assert "another" not in done.stderr.replace("none or another", "")


def test_the_doctor_sees_all_nodes(dashboard: str, gam_ray: GamRay, study: Path) -> None:
    def checks() -> dict[str, dict[str, Any]]:
        done = gam_ray("doctor", study, "--address", dashboard, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    wait_for(lambda: checks()["nodes"]["found"] == "3 nodes answered")
    found = checks()
    assert {name: check["state"] for name, check in found.items() if name != "disk"} == {
        "nodes": "ok", "versions": "ok", "bytecode": found["bytecode"]["state"],
        "gpus": found["gpus"]["state"], "auth": "ok",
        "plan": "ok", "memory": found["memory"]["state"], "storage": "ok", "mlflow": "ok",
        "data": "ok",
    }  # fmt: skip
    assert "each of 3 nodes reads what the others wrote" in found["storage"]["found"]
    assert not list((study.parent / "studies").glob(".doctor*"))


def test_submit_status_stop_resume_best(dashboard: str, gam_ray: GamRay, study: Path) -> None:
    at = ("--address", dashboard)
    submitted = gam_ray("submit", study, *at, "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout)["job"] == "digits"
    second = gam_ray("submit", study, *at)
    assert second.returncode == 2
    assert "as job digits" in second.stderr

    def trials() -> dict[str, int]:
        done = gam_ray("status", study, "--json")
        return json.loads(done.stdout)["trials"] if done.returncode == 0 else {}

    # In the middle of a trial, with one behind it.
    wait_for(lambda: trials().get("finished", 0) >= 1 and trials().get("running", 0) == 1, 240)
    stopped = gam_ray("stop", study, *at, "--json")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert json.loads(stopped.stdout)["state"] == "stopped"
    state = json.loads(gam_ray("status", study, "--json").stdout)
    assert state["state"] in ("stopped", "interrupted")
    before = state["trials"]
    assert before["finished"] >= 1

    # What a stopped study tells is enough to go on: the file that it came from is not read.
    resumed = gam_ray("resume", study.parent / "studies" / "digits", *at, "--json")
    assert json.loads(resumed.stdout)["job"] == "digits@2", resumed.stderr
    followed = gam_ray("logs", "digits", *at, "--follow")
    assert "chosen without target labels" in followed.stdout
    assert TOKEN not in followed.stdout + followed.stderr
    jobs = json.loads(gam_ray("list", *at, "--json").stdout)["jobs"]
    assert [(job["job"], job["state"]) for job in jobs] == [
        ("digits", "stopped"),
        ("digits@2", "succeeded"),
    ]
    best = json.loads(gam_ray("best", study, "--json").stdout)
    assert (best["study"], best["state"]) == ("digits", "finished")
    end_state = json.loads(gam_ray("status", study, "--watch", "--json").stdout)["trials"]
    assert end_state["finished"] == sum(end_state.values()) == 5
