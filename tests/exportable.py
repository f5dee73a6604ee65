"""Networks, trials and images to export and to predict, for tests that need no training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from gam_ray.config import StudyConfig, TaskConfig, TrialConfig, apply_settings
from gam_ray.domains import Domain
from gam_ray.export.description import ModelDescription
from gam_ray.export.provenance import Provenance
from gam_ray.networks import ChainNetwork, MatchableNetwork, build_network, register_network
from gam_ray.study.store import EndRecord, ReportRecord, StudyStore, TrialRecord
from gam_ray.training.checkpoints import save_checkpoint

SIZE = (12, 16)
CLASSES = ("sky", "ground", "thing")


class TwoLayers(ChainNetwork):
    """A segmentation network whose logits are at half of the resolution."""

    name, features, stride, multiple = "two-layers", "layer1", 2, 2

    def __init__(self, in_channels: int = 3, classes: int = 3) -> None:
        first = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        super().__init__({"layer1": first, "layer2": nn.Conv2d(8, classes, 1)})


@dataclass(frozen=True)
class Exported:
    """A model, and what it was made of."""

    folder: Path
    described: ModelDescription
    network: MatchableNetwork
    target: Domain
    files: Path


def opinionated(name: str, *, in_channels: int, classes: int, seed: int = 1) -> MatchableNetwork:
    """A network of random weights and BatchNorms that says several classes, and is sure of some."""
    # Not at import: the suites for gam_ray's own networks would take it for one of them.
    register_network("two-layers")(TwoLayers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(name, in_channels=in_channels, classes=classes).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.001, 0.01)
                nn.init.uniform_(module.bias, -1, 1)
    return network


def save_network(network: MatchableNetwork, file: Path, *, in_channels: int, classes: int) -> None:
    """Write a network as a trial leaves it."""
    state = {"in_channels": in_channels, "classes": classes, "target": network.state_dict()}
    save_checkpoint(file, state)


def provenance(task: TaskConfig, checkpoint: Path) -> Provenance:
    """Of a trial of this task whose settings are the defaults."""
    return Provenance(
        config=TrialConfig(task=task),
        checkpoint=checkpoint,
        study="streets",
        trial="07 gan fc3",
        choice=("It was drawn by lot.",),
        by_oracle=False,
        causes=(),
        scores={"entropy": -0.25},
        oracle=None,
    )


def write_images(folder: Path, sizes: list[tuple[int, int]], modes: list[str]) -> list[Path]:
    """Images of smooth noise, one a size, of which sizes and modes take turns."""
    rng = np.random.default_rng(len(sizes))
    folder.mkdir(parents=True)
    paths = []
    for number, (height, width) in enumerate(sizes):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        mode = modes[number % len(modes)]
        path = folder / f"{number:02d}.{'jpg' if mode == 'CMYK' else 'png'}"
        image.convert(mode).save(path)
        paths.append(path)
    return paths


def finished_study(config: StudyConfig) -> StudyStore:
    """A finished study: no adaptation, a trial that is better, and one that the guard distrusts."""
    store = StudyStore(config.folder)
    store.write("study", {"key": config.key(), "config": config.to_mapping(), "trials": 3})
    store.write("state", {"state": "finished", "started": 100.0, "ended": 160.0})
    network = opinionated("lenet", in_channels=1, classes=10)
    for number, role in enumerate(("no adaptation", "search", "search")):
        trial = apply_settings(config.trial, {"adaptation.weight": number + 1.0})
        files = store.trial(trial.key())
        files.create(TrialRecord(trial.key(), number, role, {}, trial))  # type: ignore[arg-type]
        scores = {"score/class_ami": 0.25 * number, "score/entropy": -1.0 / (number + 1)}
        metrics = {**scores, "score/oracle": 0.9, "loss/target": 1.0}
        shift = {"guard/class_shift": 0.9} if number == 2 else {}
        predictions = np.eye(10, dtype=np.float32)[:4]
        files.append_report(ReportRecord(40, {**metrics, **shift}, 1.0), predictions)
        files.write_end(EndRecord("finished", 40, 2.0, None, {"test": 0.625}))
        save_network(network, files.adapted, in_channels=1, classes=10)
    return store
