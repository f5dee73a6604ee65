"""Checkpoints: whole or not there, and no code in them."""

import pickle
from pathlib import Path

import pytest
import torch

from gam_ray.training.checkpoints import (
    load_checkpoint,
    load_newest,
    save_checkpoint,
    save_next,
)

CPU = torch.device("cpu")
STATE = {
    "step": 3,
    "health": {"loss/target": 0.25},
    "target": {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "groups": [{"betas": (0.5, 0.999)}]},
}


class Unsafe:
    """What a checkpoint must never run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "checkpoint.pt"
    save_checkpoint(file, STATE)
    loaded = load_checkpoint(file, CPU)
    assert loaded.keys() == STATE.keys()
    assert (loaded["step"], loaded["health"]) == (3, {"loss/target": 0.25})
    torch.testing.assert_close(loaded["target"], STATE["target"], rtol=0, atol=0)
    assert loaded["optimizer"]["groups"] == [{"betas": (0.5, 0.999)}]


def test_a_checkpoint_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    for step in (1, 2):
        save_checkpoint(file, {"step": step})
    assert load_checkpoint(file, CPU) == {"step": 2}
    assert list(tmp_path.iterdir()) == [file]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_checkpoint(file, {"step": lambda: 2})
    assert load_checkpoint(file, CPU) == {"step": 1}


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_damaged_file_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, STATE)
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match="damaged") as error:
        load_checkpoint(file, CPU)
    assert str(file) in str(error.value)


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "checkpoint.pt"
    torch.save({"step": Unsafe()}, file)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(file, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nothing.pt", CPU)


def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_used(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    assert load_newest(file, CPU) is None
    for step in (1, 2, 3):
        save_next(file, {"step": step})
    assert load_newest(file, CPU) == {"step": 3}
    file.write_bytes(file.read_bytes()[:50])
    assert load_newest(file, CPU) == {"step": 2}
    file.unlink()
    assert load_newest(file, CPU) == {"step": 2}


def test_where_all_checkpoints_are_damaged_they_are_named_and_none_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "checkpoint.pt"
    for step in (1, 2):
        save_next(file, {"step": step})
    for each in tmp_path.iterdir():
        each.write_bytes(b"")
    assert load_newest(file, CPU) is None
    assert caplog.text.count("is damaged") == 2
    assert f"checkpoint {file} is damaged" in caplog.text
