"""Milliseconds a step of pytorch-adapt's ADDA and of skada's DANN, for `benchmarks/steps.py`.

Both go into one environment of their own, with the same torch as gam_ray's:

    uv venv peers && uv pip install --python peers/bin/python torch==2.15.0 torchvision \
        pytorch-adapt==0.0.83 skada==0.6.0 skorch "setuptools<81"
    python benchmarks/steps.py --peers peers/bin/python

LeNet, batches of as many source as target images, one thread, and a discriminator 500-500-1 on the
500 features. ADDA trains the discriminator and the target network at every step (threshold 0). Of
DANN an epoch is timed, the loading of batches included, as its users run it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STEPS, ROUNDS = 10, 7


class Features(nn.Sequential):
    """LeNet as far as its 500 features."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(800, 500),
            nn.ReLU(),
        )


def discriminator() -> nn.Sequential:
    """The same as gam_ray's for vectors."""
    return nn.Sequential(
        nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 1)
    )


def adda(batch: int) -> float:
    """pytorch-adapt: the median of rounds."""
    from pytorch_adapt.hooks import ADDAHook

    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = discriminator()

        def forward(self, features: Tensor) -> Tensor:
            return self.net(features).squeeze(1)

    models = {"G": Features(), "C": nn.Linear(500, 10), "D": Judge(), "T": Features()}
    optimizers = {
        name: torch.optim.Adam(models[name].parameters(), lr=2e-4, betas=(0.5, 0.999))
        for name in ("T", "D")
    }
    hook = ADDAHook(g_opts=[optimizers["T"]], d_opts=[optimizers["D"]], threshold=0.0)
    images = torch.rand(2, batch, 1, 28, 28)
    data = {
        "src_imgs": images[0],
        "target_imgs": images[1],
        "src_domain": torch.zeros(batch),
        "target_domain": torch.ones(batch),
    }
    return median(lambda: hook({**models, **data}), STEPS)


def dann(batch: int) -> float:
    """skada: an epoch of so many steps, divided by them."""
    from skada.deep import DANN

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = Features()
            self.head = nn.Linear(500, 10)

        def forward(self, images: Tensor, sample_weight: Any = None) -> Tensor:  # noqa: ARG002
            logits: Tensor = self.head(self.features(images))
            return logits

    count = batch * STEPS
    rng = np.random.default_rng(0)
    images = rng.random((2 * count, 1, 28, 28), dtype=np.float32)
    labels = np.concatenate([rng.integers(10, size=count), np.full(count, -1)])
    domains = np.repeat([1, -2], count)
    net = DANN(
        Network(),
        layer_name="features",
        domain_classifier=nn.Sequential(discriminator(), nn.Sigmoid(), nn.Flatten(0)),
        batch_size=batch,
        max_epochs=1,
        train_split=None,
        verbose=0,
        optimizer=torch.optim.Adam,
        lr=2e-4,
    )
    return median(lambda: net.fit(images, labels, sample_domain=domains), 1) / STEPS


def median(step: Any, steps: int) -> float:
    """Milliseconds of a step, the median of rounds after one that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        times.append(1000 * (time.perf_counter() - began) / steps)
    return statistics.median(times[1:])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = int(sys.argv[1])
    sys.stdout.write(json.dumps({"pytorch-adapt, ADDA": adda(size), "skada, DANN": dann(size)}))
