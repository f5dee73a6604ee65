"""What trials leave to be looked at."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_task import STREET, Recorder, place, start_workers, trial
from torch import nn

from gam_ray.adaptation.moments import Moments
from gam_ray.config import TrialConfig
from gam_ray.training import exhibits
from gam_ray.training.data import load_task
from gam_ray.training.exhibits import Exhibits, moment_distance
from gam_ray.training.trial import load_adapted, run_trial


def run(folder: Path, config: TrialConfig, name: str = "trial") -> Exhibits | None:
    run_trial(config, place(folder, name), Recorder())
    return Exhibits.read(place(folder, name).exhibits)


def test_the_distance_is_that_of_gaussians_counted_by_hand() -> None:
    one = Moments(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([3.0, 4.0, 0.0]))
    other = Moments(torch.tensor([3.0, 1.0, 5.0]), torch.tensor([3.0, 8.0, 0.0]))
    assert moment_distance(one, other) == pytest.approx(1.0)  # √((3² + 4²) / (3² + 4²))
    assert moment_distance(one, one) == 0
    dead = Moments(torch.zeros(2), torch.zeros(2))
    assert np.isfinite(moment_distance(dead, dead))


def test_distances_are_those_of_whole_activations(tmp_path: Path) -> None:
    config = trial()
    found = run(tmp_path, config)
    assert found is not None
    assert found.layers == ("conv1", "conv2", "fc3", "fc4")
    assert (found.frames.size, found.masks.size) == (0, 0)
    assert (found.after[1:] < found.before[1:]).all(), "it was matched"

    data = load_task(config.task, tmp_path)
    network = load_adapted(config, place(tmp_path).adapted, torch.device("cpu"))
    seen: dict[str, np.ndarray] = {}
    network.layers["fc3"].register_forward_hook(lambda *said: seen.update(fc3=said[2].numpy()))
    with torch.no_grad():
        network(data.target_held_out.images.float() / 255)
    unadapted = run(tmp_path, config.baseline("none"), "none")
    assert unadapted is not None
    np.testing.assert_allclose(unadapted.before, unadapted.after)
    np.testing.assert_allclose(unadapted.before, found.before)
    target = seen["fc3"].reshape(len(seen["fc3"]), seen["fc3"].shape[1], -1)
    source_network = load_adapted(
        config.baseline("none"), place(tmp_path, "none").adapted, torch.device("cpu")
    )
    source_network.layers["fc3"].register_forward_hook(
        lambda *said: seen.update(source=said[2].numpy())
    )
    with torch.no_grad():
        source_network(data.source_held_out.images.float() / 255)
    source = seen["source"].reshape(len(seen["source"]), seen["source"].shape[1], -1)
    apart = (source.mean((0, 2)) - target.mean((0, 2))) ** 2
    apart += (source.std((0, 2)) - target.std((0, 2))) ** 2
    expected = np.sqrt(apart.sum() / (source.std((0, 2)) ** 2).sum())
    assert found.after[2] == pytest.approx(expected, rel=1e-4)


def test_masks_are_what_the_kept_network_predicts(tmp_path: Path) -> None:
    found = run(tmp_path, STREET)
    assert found is not None
    assert found.frames.tolist() == [0, 3, 6, 9, 12, 15]
    network = load_adapted(STREET, place(tmp_path).adapted, torch.device("cpu"))
    images = load_task(STREET.task, tmp_path).target_held_out.images[found.frames]
    with torch.no_grad():
        logits = network(images.float() / 255)
    logits = nn.functional.interpolate(logits, size=images.shape[-2:], mode="bilinear")
    confidence, classes = logits.softmax(1).max(1)
    np.testing.assert_array_equal(found.masks, classes.numpy())
    np.testing.assert_allclose(found.confidence, 255 * confidence.numpy(), atol=0.51)


def test_a_failure_is_logged_and_ends_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(exhibits, "_moments", fail)
    assert run(tmp_path, trial()) is None
    assert "leaves nothing to look at" in caplog.text


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "exhibits.npz"
    file.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"exhibits\.npz is damaged"):
        Exhibits.read(file)


def _run_on_two(folder: Path, config: TrialConfig) -> None:
    run_trial(config, place(folder, "two"), Recorder())


@pytest.mark.slow
def test_of_two_workers_one_leaves_them(tmp_path: Path) -> None:
    start_workers(_run_on_two, 2, tmp_path, STREET)
    two = Exhibits.read(place(tmp_path, "two").exhibits)
    one = run(tmp_path, STREET)
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one.after, two.after, rtol=0.05)
