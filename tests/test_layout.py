"""What holds for the whole tree: who imports whom, docstrings, prints, and paths in the guides."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "gam_ray").rglob("*.py"))
}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
PATH = re.compile(
    r"(?<![\w./-])((?:\.ci|benchmarks|docker|gam_ray|jobs|search_spaces|tests)/[\w./-]*)"
)


def paths_in(text: str) -> set[str]:
    """Targets of relative links, and everything that begins with a folder of the project."""
    return {found.rstrip(".") for pattern in (LINK, PATH) for found in pattern.findall(text)}


def prints(tree: ast.Module) -> bool:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == "print" for called in calls)


def test_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_nothing_prints_past_the_consoles_of_the_command_line() -> None:
    assert [name for name, tree in TREES.items() if prints(tree)] == []


@pytest.mark.parametrize("guide", ["README.md", "CONTRIBUTING.md"])
def test_paths_in_the_guides_exist(guide: str) -> None:
    named = paths_in((ROOT / guide).read_text(encoding="utf-8"))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_paths_are_found_in_links_commands_and_prose() -> None:
    text = "[a](docs/a.md#b) [w](https://x.org/tests/) `gam-ray run jobs/q.yaml`, see tests/a.py."
    assert paths_in(text) == {"docs/a.md", "jobs/q.yaml", "tests/a.py"}
