"""The Dockerfile agrees with what the project says of itself elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from container_files import DOCKER, ROOT, arguments, instructions, programs, stages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def test_the_default_base_has_the_python_and_the_ray_that_are_locked() -> None:
    name, argument = instructions()[0]
    assert name == "ARG"
    found = re.fullmatch(r"BASE_IMAGE=rayproject/ray:([\d.]+)-py3(\d+)-cpu", argument)
    assert found
    assert found[1] == LOCKED["ray"]
    least, most = (int(minor) for minor in re.findall(r"3\.(\d+)", PROJECT["requires-python"]))
    assert least <= int(found[2]) < most


def test_all_stages_are_of_the_base_that_was_asked_for() -> None:
    bases = {stage: said[0][1].split()[0] for stage, said in stages().items()}
    assert bases == {
        "base": "${BASE_IMAGE}", "dependencies": "base", "package": "dependencies", "final": "base",
    }  # fmt: skip


def test_dependencies_are_a_layer_of_their_own_before_the_code() -> None:
    assert arguments("dependencies", "COPY") == ["pyproject.toml constraints.txt ./"]
    copied = arguments("final", "COPY")
    assert copied[0].startswith("--from=dependencies ")
    assert copied[1].startswith("--from=package ")
    (install,) = arguments("dependencies", "RUN")
    assert "--constraint constraints.txt" in install


def test_what_is_installed_is_what_the_project_names(tmp_path: Path) -> None:
    (install,) = arguments("dependencies", "RUN")
    code = re.search(r"python -c '([^']*)'", install)
    assert code
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    extras = PROJECT["optional-dependencies"]
    assert done.stdout.splitlines() == [
        *PROJECT["dependencies"], *extras["postgresql"], *extras["s3"],
    ]  # fmt: skip


def test_nothing_runs_as_root() -> None:
    assert arguments("final", "USER") == ["1000"]


def test_the_image_says_whether_it_is_well_and_what_it_is() -> None:
    assert len(arguments("final", "HEALTHCHECK")) == 1
    (labels,) = arguments("final", "LABEL")
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f"VERSION={PROJECT['version']}" in arguments("final", "ARG")
    assert f'licenses="{PROJECT["license"]}"' in labels


def test_what_is_started_is_there() -> None:
    (entrypoint,), (command,) = arguments("final", "ENTRYPOINT"), arguments("final", "CMD")
    assert {json.loads(entrypoint)[0], json.loads(command)[0]} <= programs()
    (check,) = arguments("final", "HEALTHCHECK")
    assert re.search(r"CMD (\w+)", check)[1] in programs()  # type: ignore[index]


@pytest.mark.parametrize("instruction", ["ARG", "ENV", "LABEL"])
def test_no_secret_has_a_place_in_the_image(instruction: str) -> None:
    said = " ".join(argument for name, argument in instructions() if name == instruction)
    assert not re.search(r"(?i)token|password|passwd|secret|credential|_key\b", said)


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for name, argument in instructions()
        if name == "COPY" and "--from" not in argument
        for source in argument.split()[:-1]
    }
    assert kept == copied
    assert all((ROOT / name).exists() for name in kept)


def test_git_does_not_take_the_secrets_along() -> None:
    done = subprocess.run(
        ["git", "check-ignore", "--quiet", str(DOCKER / ".env")], cwd=ROOT, check=False
    )
    assert done.returncode == 0
