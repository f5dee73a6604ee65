"""One trial from its file."""

import json
from pathlib import Path

import pytest
import tiny_task
import torch

from gam_ray.config import ConfigError
from gam_ray.selection.scores import known_scores
from gam_ray.training.single import OUTCOME, Trial
from gam_ray.training.trial import load_adapted

TRIAL = """\
task: {source: tiny-source, target: tiny-target}
pretraining: {steps: 20, batch_size: 16}
adaptation: {layers: [conv2, fc3]}
steps: 3
batch_size: 16
report_every: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "trial.yaml").write_text(TRIAL)
    return tmp_path / "trial.yaml"


def test_a_trial_file_gives_scores_and_a_checkpoint_and_again_the_same(file: Path) -> None:
    told: list[str] = []
    folder = file.parent / "here"
    config = tiny_task.trial(steps=3, report_every=2)
    found = Trial.load(file).run(folder=folder, tell=told.append)
    assert (found["step"], found["key"], found["config"]) == (3, config.key(), config.to_mapping())
    assert found["scores"].keys() == known_scores().keys()
    assert found["oracle"].keys() == {"train", "test"}
    assert told == ["training the source network: 20/20"]
    assert json.loads((folder / OUTCOME).read_text()) == found
    assert load_adapted(config, Path(found["checkpoint"]), torch.device("cpu"))
    assert Trial.load(file).run(folder=folder, tell=told.append) == found
    assert len(told) == 1


def test_without_a_folder_a_trial_is_kept_by_its_key(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    found = Trial.load(file).run()
    assert Path(found["checkpoint"]).parent == file.parent / "trials" / found["key"]


def test_a_wrong_trial_file_is_refused(file: Path) -> None:
    file.write_text(TRIAL + "stesp: 3\n")
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        Trial.load(file).run()
