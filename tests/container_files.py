"""What the Dockerfile, the compose file and the manifests say, for tests that compare them."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
KUBERNETES = ROOT / "jobs" / "kubernetes"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its text on one line; no comments."""
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, argument.strip()) for name, argument in found]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name; the last one is ``final``."""
    found: dict[str, list[tuple[str, str]]] = {}
    stage: list[tuple[str, str]] = []
    for name, argument in instructions():
        if name == "FROM":
            words = argument.split()
            stage = found.setdefault(words[2] if len(words) == 3 else "final", [])
        stage.append((name, argument))
    return found


def arguments(stage: str, instruction: str) -> list[str]:
    """What one instruction is given in a stage, each time."""
    return [argument for name, argument in stages()[stage] if name == instruction]


def compose() -> dict[str, Any]:
    """The compose file, with its variables as they are written."""
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def filled_in(text: str) -> str:
    """A text of the compose file with each variable's default, or ``secret`` where it has none."""
    return re.sub(r"\$\{\w+(?::-([^}]*)|[^}]*)\}", lambda found: found[1] or "secret", text)


def own_services() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def programs() -> set[str]:
    """What can be run in the image: scripts of the locked packages, and what apt brings."""
    (install,) = (run for run in arguments("base", "RUN") if "apt-get install" in run)
    packages = re.search(r"packages='([^']*)'", install)
    assert packages
    scripts = {script.name for script in entry_points(group="console_scripts")}
    return {*packages[1].split(), *scripts}


def manifests_in(file: Path) -> list[dict[str, Any]]:
    """The manifests of one file."""
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def parse_command(words: list[str]) -> dict[str, Any]:
    """The options of a command line of Ray or MLflow, as the program itself reads them.

    Raises:
        click.UsageError: If it would not take them.
    """
    program, name, *rest = words
    if program == "ray":
        from ray.scripts.scripts import cli
    else:
        from mlflow.cli import cli
    return cli.commands[name].make_context(name, [filled_in(word) for word in rest]).params
