"""The guide to clusters and the scripts beside it: what they call takes what they give."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from container_files import ROOT, parse_command
from pages import MAIN, blocks, of_gam_ray, parse_gam_ray

GUIDE = [
    words for block in blocks("") if block.page == "docs/cluster.md" for words in block.commands()
]
SLURM = (ROOT / "jobs" / "slurm.sh").read_text(encoding="utf-8")


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The command lines of a program in a script, each up to what the shell takes for itself."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.search(rf"(?:^|[ /])((?:{program})\b.*)", line)
        if found and not line.startswith("#"):
            yield shlex.split(re.split(r"\s(?:#|\||>|&)", found[1])[0])


# That they are ones is seen to where all pages are, in tests/docs.
OF_GUIDE = [given for words in GUIDE if (given := of_gam_ray(words))]
OF_SLURM = [words[1:] for words in commands(SLURM, f"gam-ray (?:{'|'.join(MAIN.commands)})")]


@pytest.mark.parametrize("words", OF_SLURM, ids=" ".join)
def test_commands_of_the_script_are_ones(words: list[str]) -> None:
    parse_gam_ray(words)


def test_the_guide_has_all_of_a_studys_life() -> None:
    ours = [*OF_GUIDE, *OF_SLURM]
    assert {"doctor", "run", "submit", "stop", "best", "status"} <= {words[0] for words in ours}
    assert len(ours) >= 15


@pytest.mark.parametrize(
    "words", [words for words in GUIDE if words[:2] == ["ray", "start"]], ids=" ".join
)
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
