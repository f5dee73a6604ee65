"""`gam-ray init`: what it asks, says, refuses and prints."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from gam_ray.cli import starting
from gam_ray.config import load_study_config

Run = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of images called source and target, in the current folder."""
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    for row in range(6):
        for file in (f"source/{'ab'[row % 2]}/{row}.png", f"target/{row}.png"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[tuple[str, str | None]]:
    """Let a user at a terminal give these answers; an empty one takes the default."""
    asked: list[tuple[str, str | None]] = []
    given = iter(answers)

    def prompt(question: str, default: str | None = None) -> str:
        asked.append((question, default))
        return next(given) or str(default)

    monkeypatch.setattr(starting, "_is_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", prompt)
    return asked


def test_the_folders_of_those_names_are_taken(gam_ray: Run, here: Path) -> None:
    done = gam_ray("init")
    assert done.exit_code == 0, done.output
    assert "6 images, 28×28; 6 L; values" in done.stdout
    assert "next        gam-ray run study.yaml" in done.stdout
    assert load_study_config(here / "study.yaml").name == "source-to-target"


def test_json_says_what_was_seen_and_written(gam_ray: Run, here: Path) -> None:
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    done = gam_ray(
        "init", elsewhere, "--source", "source", "--target", "target", "--name", "mine",
        "--trials", 3, "--output", "mine.yaml", "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["study_file"] == str(elsewhere / "mine.yaml")
    assert Path(found["sample_sheet"]).is_file()
    assert found["source"]["classes"] == {"a": 3, "b": 3}
    assert found["source"]["sizes"] == {"28x28": 6}
    assert (found["target"]["classes"], found["target"]["kind"]) == ({}, "classification")
    assert (found["network"], found["size"], found["trials"]) == ("lenet", [28, 28], 3)
    study = load_study_config(elsewhere / "mine.yaml")
    assert (study.name, study.search.trials) == ("mine", 3)


def test_at_a_terminal_what_is_missing_is_asked_for(
    gam_ray: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "target").rename(here / "scans")
    asked = answer(monkeypatch, "", "scans", "")
    done = gam_ray("init")
    assert done.exit_code == 0, done.output
    assert [default for _, default in asked] == ["source", None, "source-to-scans"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert answer(monkeypatch) == []
    assert gam_ray("init", "--target", "scans", "--yes", "--force").exit_code == 0


def test_folders_that_are_missing_are_told_together(gam_ray: Run, tmp_path: Path) -> None:
    done = gam_ray("init", tmp_path)
    assert done.exit_code == 2
    assert "--source" in done.stderr
    assert "--target" in done.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "clasification"], "Did you mean 'classification'?"),
        (["--output", "study.json"], "ends in .yaml"),
        (["--output", "nowhere/study.yaml"], "There is no folder"),
        (["--name", "a b"], "name: a name takes letters"),
        (["--target", "source"], "both are"),
    ],
)
def test_what_does_not_fit_is_one_screen(gam_ray: Run, words: list[str], message: str) -> None:
    done = gam_ray("init", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not list(Path().glob("*study*"))


def test_nothing_is_overwritten_without_force(gam_ray: Run, here: Path) -> None:
    (here / "study.yaml").write_text("mine")
    done = gam_ray("init")
    assert (done.exit_code, (here / "study.yaml").read_text()) == (2, "mine")
    assert "--force" in done.stderr
    assert gam_ray("init", "--force").exit_code == 0
    assert load_study_config(here / "study.yaml")
