"""A study on a cluster that has no worker node until it is asked for some: Ray's own autoscaler."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cluster_ray import END_S, end, environment, free_port, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

MOST_NODES = 2
STUDY = {
    "name": "grows",
    "trial": {
        "task": {"source": "rendered-digits", "target": "handwritten-digits"},
        "pretraining": {"steps": 30, "batch_size": 32},
        "steps": 60,
        "report_every": 20,
        "batch_size": 16,
    },
    "space": {"adaptation.weight": {"log": [1, 100]}},
    "search": {"trials": 4, "seed": 3},
    "objective": {"finalists": 1, "seeds": 1},
    "student": None,
    "resources": {"max_lanes": MOST_NODES, "autoscaling_wait_s": 300},
}


def autoscaler(address: str) -> dict[str, Any]:
    """A cluster whose worker nodes are further nodes on this machine."""
    return {
        "cluster_name": "grows",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "worker_liveness_check": False,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": MOST_NODES},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Ray's own files."""
    return tmp_path_factory.mktemp("r", numbered=False)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[str]:
    """Of a head without CPUs, whose autoscaler starts nodes of one."""
    found = f"127.0.0.1:{free_port()}"
    config = tmp_path_factory.mktemp("autoscaler") / "cluster.yaml"
    config.write_text(yaml.safe_dump(autoscaler(found)))
    grows = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    head = subprocess.Popen(
        [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--num-cpus=0", f"--port={found.partition(':')[2]}", "--node-ip-address=127.0.0.1",
            f"--temp-dir={logs}",
            f"--autoscaling-config={config}", "--include-dashboard=false",
        ],
        env=environment() | grows | {"RAY_AUTH_MODE": "token"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield found
    finally:
        end(head)


def worker_nodes(address: str) -> int:
    """Nodes with a CPU that the cluster has now."""
    script = (
        "import ray, sys; ray.init(sys.argv[1], log_to_driver=False);"
        "print(sum(n['Alive'] and 'CPU' in n['Resources'] for n in ray.nodes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, address],
        env=environment() | {"RAY_AUTH_MODE": "token"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(done.stdout) if done.returncode == 0 else -1


def asked_for(logs: Path) -> list[str]:
    """What the autoscaler was asked to have room for, at each of its looks, oldest first."""
    (log,) = logs.glob("session_2*/logs/monitor.log")
    return re.findall(r"From request_resources:\n (.*)", log.read_text())


def test_a_cluster_without_nodes_grows_for_a_study_and_is_let_go_after_it(
    address: str, logs: Path, tmp_path: Path
) -> None:
    wait_for(lambda: worker_nodes(address) == 0)
    file = tmp_path / "grows.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "storage": str(tmp_path / "studies")}))
    study = subprocess.Popen(
        [sys.executable, "-m", "gam_ray.cli", "run", str(file), "--address", address, "--json"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    most, deadline = 0, time.monotonic() + END_S
    while study.poll() is None:
        assert time.monotonic() < deadline, study.kill()
        most = max(most, worker_nodes(address))
        time.sleep(2)
    out, err = study.communicate()
    assert study.returncode == 0, err
    assert json.loads(out)["state"] == "finished"
    assert most == MOST_NODES
    assert f"{{'CPU': 1.0}}: {MOST_NODES} from request_resources()" in asked_for(logs)
    # Nobody asks for them any more. The nodes themselves stay: the autoscaler that runs on one
    # machine does not know them again.
    wait_for(lambda: asked_for(logs)[-1] == "(none)")
