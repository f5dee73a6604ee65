"""The guide to clusters and the scripts beside it: what they call takes what they give."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import typer
from container_files import ROOT, parse_command

from gam_ray.cli import app

GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SLURM = (ROOT / "jobs" / "slurm.sh").read_text(encoding="utf-8")


def blocks(text: str) -> str:
    """What stands between fences."""
    return "\n".join(text.split("\n```")[1::2])


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The command lines of a program in a script, each up to what the shell takes for itself."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.search(rf"(?:^|[ /])((?:{program})\b.*)", line)
        if found and not line.startswith("#"):
            yield shlex.split(re.split(r"\s(?:#|\||>|&)", found[1])[0])


MAIN = typer.main.get_command(app)
GAM_RAY = f"gam-ray (?:{'|'.join(MAIN.commands)})"  # type: ignore[attr-defined]
OURS = [*commands(blocks(GUIDE), GAM_RAY), *commands(SLURM, GAM_RAY)]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_commands_of_the_guide_are_ones(words: list[str]) -> None:
    command = MAIN.commands[words[1]]  # type: ignore[attr-defined]
    command.make_context(words[1], words[2:])


def test_the_guide_has_all_of_a_studys_life() -> None:
    assert {"doctor", "run", "submit", "stop", "best", "status"} <= {words[1] for words in OURS}
    assert len(OURS) >= 15


@pytest.mark.parametrize("words", commands(blocks(GUIDE), "ray start"), ids=" ".join)
def test_nodes_are_started_as_ray_takes_it(words: list[str]) -> None:
    parse_command(words)


@pytest.mark.parametrize("script", ["docker/check.sh", "jobs/slurm.sh"])
def test_scripts_are_ones(script: str) -> None:
    file = ROOT / script
    assert file.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(file)], check=True)


def test_slurm_starts_ray_as_it_takes_it() -> None:
    from ray.scripts.scripts import cli

    (words,) = commands(SLURM, "ray symmetric-run")
    rest = words[2 : words.index("--")]
    command = cli.commands["symmetric-run"]
    options = command.make_context("symmetric-run", rest, resilient_parsing=True).params
    assert options["address"].endswith(":6379")
    assert "--address" in words
    left = list(options["ray_args_and_entrypoint"])
    parse_command(["ray", "start", "--address=head:6379", left[0], "16"])
