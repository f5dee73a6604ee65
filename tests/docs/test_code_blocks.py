"""Every block of code on the pages is what it seems: it runs, or it is read by what it is for.

Python runs. YAML is read as a study file, a search space, or a part of a study file. Of commands
those of gam_ray are run where they need no cluster and no training; of all others options and files
are looked up.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from exportable import finished_study, write_images
from pages import ROOT, Block, blocks, of_gam_ray, parse_gam_ray
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import SearchSpace, StudyConfig, TrialConfig, load_study_config
from gam_ray.config.space import space_problems
from gam_ray.study.study import Study

# Programs of others, which are not here or would not end, and what begins with a variable.
OTHERS = {
    "docker",
    "helm",
    "kind",
    "kubectl",
    "mlflow",
    "nvidia-cuda-mps-control",
    "optuna-dashboard",
    "ray",
    "sbatch",
    "srun",
    "pip",
}
SHELL = {"base64", "cd", "cp", "export", "git", "curl", "ls", "mkdir"}
# They end by themselves, on the folder of a finished study, without Ray.
RUN = {"best", "export", "init", "list", "logs", "predict", "report", "run", "status"}
NOT_HERE = ("--address", "--register", "--watch", "--follow", "--open", "http://", "s3://")
BASE: dict[str, Any] = {
    "name": "base",
    "trial": {"task": {"source": "rendered-digits", "target": "handwritten-digits"}},
    "space": {"adaptation.weight": {"log": [1, 10]}},
}

shell = pytest.mark.parametrize("block", blocks("", "sh"), ids=str)


@pytest.mark.parametrize(
    "page", sorted({block.page for block in blocks("python")}), ids=lambda page: Path(page).stem
)
def test_python_runs(page: str, tmp_path: Path) -> None:
    text = "\n".join(block.text for block in blocks("python") if block.page == page)
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_study_a_space_or_a_part_of_a_study(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    if {"name", "trial"} <= content.keys():
        shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
        file = tmp_path / "jobs" / "study.yaml"
        file.parent.mkdir()
        file.write_text(block.text)
        load_study_config(file)
    elif all("." in key for key in content):
        space = SearchSpace.model_validate_json(json.dumps(content))
        assert space_problems(space, TrialConfig.from_mapping(BASE["trial"])) == {}
    elif content.keys() <= StudyConfig.model_fields.keys():
        StudyConfig.from_mapping(with_part(content))
    else:
        trial = {**BASE["trial"], "adaptation": content}
        TrialConfig.from_mapping(trial)


def with_part(part: dict[str, Any]) -> dict[str, Any]:
    """A study with this part, and what that part speaks of."""
    resources = {"gpus_per_worker": 1.0} if "gpu_hours" in str(part) else {}
    return {**BASE, "resources": resources, **part}


@shell
def test_commands_have_these_options_and_files(block: Block) -> None:
    for words in block.commands():
        check([word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)])


def check(words: list[str]) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if given := of_gam_ray(words):
        parse_gam_ray(given)
    if program == "python":
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if option not in options_of(words[1])] == []
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert [w for w in words[1:] if not re.search(rf"^{w}:", makefile, re.MULTILINE)] == []
    elif program not in {"gam-ray", "pytest", "pre-commit"}:
        assert program in OTHERS | SHELL, f"is {program} a program that readers have?"


@cache
def options_of(script: str) -> set[str]:
    """The options that a script of ours has, those of what it imports beside it included."""
    text = (ROOT / script).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    beside = [(ROOT / script).with_name(f"{name}.py") for name in imported]
    texts = [text, *(file.read_text(encoding="utf-8") for file in beside if file.exists())]
    return set(re.findall(r'"(--[\w-]+)"', "".join(texts)))


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder such as readers have: our studies, images of their own, a finished study."""
    for name in ("jobs", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    put_finished(Path("jobs/quickstart.yaml"))
    for name in ("photos/cat", "photos/dog", "scans"):
        write_images(tmp_path / name, [(28, 28)] * 12, ["L"])


def put_finished(file: Path) -> None:
    """The folder of a study file, as if the study had run to its end; the file is made if missing.

    A page speaks of the readers' own.
    """
    if not file.exists():
        ours = Path("jobs/quickstart.yaml").read_text(encoding="utf-8")
        file.write_text(ours.replace("name: quickstart", "name: own"), encoding="utf-8")
    finished_study(Study.load(file).config)


def is_run(words: list[str]) -> bool:
    """Whether a command ends by itself, here."""
    is_ours = words[0].removeprefix(".venv/bin/") == "gam-ray" and words[1] in RUN
    return is_ours and not any(part in " ".join(words) for part in NOT_HERE)


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize(
    "block", [each for each in blocks("", "sh") if any(map(is_run, each.commands()))], ids=str
)
def test_commands_run(block: Block) -> None:
    for words in filter(is_run, block.commands()):
        if words[1] == "run":  # nothing is trained here: a study that is over tells its choice
            put_finished(Path(words[2]))
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}\n{done.exception!r}"
