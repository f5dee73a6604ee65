"""The compose file: Compose itself reads it, and all it names is in the image and the programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Any

import mlflow
import pytest
import yaml
from container_files import (
    DOCKER,
    ROOT,
    arguments,
    compose,
    filled_in,
    own_services,
    parse_command,
    programs,
)
from postgresql_server import postgresql_server
from s3_server import s3_server

from gam_ray.config import load_study_config

TEXT = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
EXAMPLE = (DOCKER / "env.example").read_text(encoding="utf-8")
OWN = own_services()
FILLED = "filled-in"
PROFILES = ["full", "small", "full,gpu", "small,gpu"]


def parser() -> list[str]:
    """Compose, as a plugin of Docker or by itself."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            found = subprocess.run([*words, "version"], capture_output=True, check=False)
            if found.returncode == 0:
                return words
    pytest.skip("Compose is not installed; on Debian: apt install docker-compose")


def read_by_compose(env: Path, profiles: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": str(env.parent), "COMPOSE_PROFILES": profiles}
    return subprocess.run(
        [*parser(), "--file", str(DOCKER / "compose.yaml"), "--env-file", str(env), "config"],
        env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip


def own(name: str) -> dict[str, Any]:
    return OWN[name]


# By Compose's own parser


@pytest.mark.parametrize("profiles", PROFILES)
def test_compose_reads_it(tmp_path: Path, profiles: str) -> None:
    env = tmp_path / "env"
    env.write_text(re.sub(r"=$", f"={FILLED}", EXAMPLE, flags=re.MULTILINE))
    done = read_by_compose(env, profiles)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert {"head", "worker"} <= services.keys()
    for service in services.values():
        assert "${" not in json.dumps(service)
    assert services["head"]["environment"]["RAY_AUTH_TOKEN"] == FILLED


def test_compose_says_what_is_not_filled_in(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text(EXAMPLE)
    done = read_by_compose(env, "full")
    assert done.returncode != 0
    assert re.search(r"RAY_AUTH_TOKEN|POSTGRES_PASSWORD|S3_\w+_KEY", done.stderr)
    assert "env.example" in done.stderr


# By what is in the image and the programs


def test_every_variable_is_in_the_example_and_every_one_there_is_used() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT)) - {"GAM_RAY_IMAGE"}
    named = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", EXAMPLE, flags=re.MULTILINE))
    assert named - {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"} == used


def test_the_line_of_the_guide_fills_in_the_example(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\(umask 077.*$", guide, flags=re.MULTILINE)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "env.example").write_text(EXAMPLE)
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    file = tmp_path / "docker" / ".env"
    assert file.stat().st_mode & 0o077 == 0
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    said = dict(line.split("=", 1) for line in lines)
    assert said.pop("COMPOSE_PROFILES") == "full"
    assert said.pop("COMPOSE_PROJECT_NAME") == "gam-ray"
    assert len(said) == len(set(said.values())) == 4
    assert all(len(value) >= 32 for value in said.values())


@pytest.mark.parametrize("name", OWN)
def test_a_command_is_one_of_its_program(name: str) -> None:
    words = own(name)["command"]
    assert words[0] in programs()
    parse_command(words)


def test_a_wrong_option_is_found() -> None:
    import click

    with pytest.raises(click.UsageError):
        parse_command(["ray", "start", "--heads"])
    with pytest.raises(click.UsageError):
        parse_command(["mlflow", "server", "--allowed-host=x"])


def test_ports_are_where_the_programs_listen_and_the_image_says_so() -> None:
    exposed = set(" ".join(arguments("final", "EXPOSE")).split())
    for name, service in OWN.items():
        options = parse_command(service["command"])
        listens = {str(options["port"])} if name.startswith("mlflow") else {
            str(options["port"]), str(options["dashboard_port"]),
        }  # fmt: skip
        for port in service.get("ports", []):
            address, outside, inside = port.split(":")
            assert address == "127.0.0.1"  # MLflow and the dashboard are not for everybody
            assert outside == inside
            assert inside in listens
            assert inside in exposed
    assert parse_command(own("head")["command"])["port"] == 6379
    assert parse_command(own("worker")["command"])["address"] == "head:6379"


def test_volumes_are_declared_and_their_folders_belong_to_the_images_user() -> None:
    folders = next(run for run in arguments("base", "RUN") if "install --directory" in run)
    used = set()
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source, target = filled_in(volume).split(":")
            used.add(source)
            if name in OWN:
                assert f" {target} " in folders
    assert used == set(compose()["volumes"])


def test_what_mlflow_keeps_is_in_a_volume() -> None:
    small = own("mlflow-small")
    options = parse_command(small["command"])
    (volume,) = small["volumes"]
    folder = volume.split(":")[1]
    assert options["backend_store_uri"].startswith(f"sqlite:///{folder}/")
    assert options["artifacts_destination"].startswith(f"{folder}/")


def test_mlflow_finds_its_database_and_its_bucket() -> None:
    services = compose()["services"]
    options = parse_command(services["mlflow"]["command"])
    environment = services["mlflow"]["environment"]
    user = services["db"]["environment"]["POSTGRES_USER"]  # and so the database's name
    assert options["backend_store_uri"] == f"postgresql+psycopg2://{user}@db/{user}"
    assert environment["PGPASSWORD"] == services["db"]["environment"]["POSTGRES_PASSWORD"]
    bucket = options["artifacts_destination"].removeprefix("s3://")
    assert f"-bucket={bucket}" in services["s3"]["command"]
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:8333"
    assert ":8333/" in services["s3"]["healthcheck"]["test"][-1]
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert environment[key] == services["s3"]["environment"][key]


@pytest.mark.slow
def test_mlflow_runs_on_its_database_and_its_bucket(tmp_path: Path) -> None:
    """The full form's server, on a PostgreSQL and an S3 of this machine."""
    import boto3

    service = own("mlflow")
    with postgresql_server() as database, s3_server() as s3, socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        given = {name: filled_in(value) for name, value in service["environment"].items()}
        environment = {**os.environ, **given, "MLFLOW_S3_ENDPOINT_URL": s3}
        keys = {
            "aws_access_key_id": given["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": given["AWS_SECRET_ACCESS_KEY"],
        }
        bucket = boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **keys)
        bucket.create_bucket(Bucket="mlflow")
        words = [filled_in(word) for word in service["command"]]
        words = [
            re.sub(r"^--backend-store-uri=.*", f"--backend-store-uri={database}", w) for w in words
        ]
        words = [re.sub(r"^--port=.*", f"--port={port}", word) for word in words]
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name(words[0])), *words[1:], "--workers=1"],
            env=environment, cwd=tmp_path, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until_it_answers(f"http://localhost:{port}/health")
            file = tmp_path / "file.txt"
            file.write_text("kept")
            client = mlflow.MlflowClient(f"http://localhost:{port}")
            run = client.create_run(client.create_experiment("e")).info
            client.log_artifact(run.run_id, str(file))
            (found,) = bucket.list_objects_v2(Bucket="mlflow")["Contents"]
            assert found["Key"].endswith("/file.txt")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - of this machine
            return
        time.sleep(1)
    pytest.fail(f"{url} does not answer")


def test_environment_variables_are_ones_that_the_programs_read() -> None:
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.credentials import EnvProvider
    from mlflow import environment_variables

    aws = {*EnvProvider.ACCESS_KEY.split(), *EnvProvider.SECRET_KEY.split()} | {
        env for _, env, *_ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values() if isinstance(env, str)
    }
    for service in OWN.values():
        for name in service.get("environment", {}):
            known = name in {*aws, "PGPASSWORD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
            assert known or hasattr(environment_variables, name), name


def test_all_nodes_want_the_token() -> None:
    nodes = [service for service in OWN.values() if service["command"][0] == "ray"]
    assert len(nodes) == 3
    for node in nodes:
        assert node["environment"]["RAY_AUTH_MODE"] == "token"
        assert "${RAY_AUTH_TOKEN:?" in node["environment"]["RAY_AUTH_TOKEN"]


def test_ray_takes_the_token_from_there() -> None:
    code = """
from ray._raylet import AuthenticationTokenLoader
print(AuthenticationTokenLoader.instance().get_token_for_http_header())
"""
    environment = {**own("head")["environment"], "RAY_AUTH_TOKEN": FILLED, "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert f"Bearer {FILLED}" in done.stdout


def test_who_is_waited_for_can_say_that_it_is_well() -> None:
    services = compose()["services"]
    waits = {
        (name, other)
        for name, service in services.items()
        for other, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    }
    assert waits == {
        ("worker", "head"), ("worker-gpu", "head"), ("mlflow", "db"), ("mlflow", "s3"),
    }  # fmt: skip
    for name, other in waits:
        assert services[other]["healthcheck"]["test"]
        # Compose refuses to wait for what is not started.
        assert set(services[other].get("profiles", [])) <= set(services[name].get("profiles", []))
    for name, service in OWN.items():
        if "healthcheck" in service:
            kind, *words = service["healthcheck"]["test"]
            assert (shlex.split(words[0]) if kind == "CMD-SHELL" else words)[0] in programs(), name


def test_the_example_study_runs_on_it() -> None:
    study = load_study_config(ROOT / "jobs" / "cluster.yaml")
    environment = dict(word.split("=") for word in shlex.split(arguments("final", "ENV")[0]))
    for name in ("head", "worker", "worker-gpu"):
        targets = [filled_in(volume).split(":")[1] for volume in own(name)["volumes"]]
        assert study.storage in targets
        assert environment["GAM_RAY_DATA"] in targets
    host = study.tracking.uri.removeprefix("http://")  # type: ignore[union-attr]
    for name in ("mlflow", "mlflow-small"):
        assert host in parse_command(own(name)["command"])["allowed_hosts"].split(",")
    assert "mlflow" in own("mlflow-small")["networks"]["default"]["aliases"]
    cores = re.search(r"WORKER_CPUS:-(\d+)", TEXT)
    assert study.resources.workers * study.resources.cpus_per_worker <= int(cores[1])  # type: ignore[index]


def test_the_example_study_is_the_quickstart_elsewhere() -> None:
    elsewhere = {"name", "resources", "storage", "tracking"}
    cluster, quickstart = (
        load_study_config(ROOT / "jobs" / f"{name}.yaml").to_mapping()
        for name in ("cluster", "quickstart")
    )
    assert {key for key in cluster if cluster[key] != quickstart[key]} == elsewhere
