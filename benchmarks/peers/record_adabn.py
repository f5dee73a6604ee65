r"""AdaBN of pytorch-adapt, recorded for `tests/adaptation/test_adabn_peer.py`.

pytorch-adapt (Musgrave, Belongie and Lim 2022) pins old companions, so it needs an environment
of its own; this is what the recording was made in:

    python3.11 -m venv peer
    peer/bin/pip install pytorch-adapt==0.0.83 torchmetrics==0.9.3 \
        pytorch-metric-learning==1.6.3 torch==2.9.1 torchvision==0.24.1 "numpy<2" \
        "setuptools<81"
    peer/bin/python benchmarks/peers/record_adabn.py

Its ``AdaBNModel`` gives every BatchNorm2d of a network a second one for the target domain, which
shares weights with the source's and starts with mean 0 and variance 1. What is recorded:

- ``default``: its target BatchNorm as it is, with momentum 0.1.
- ``cumulative``: the same with ``momentum=None``.
- ``population``: its ``PopulationBatchNorm2d``, layer by layer on one batch, whose variances are
  divided by n.

Weights and images come from numpy's seeds, so that both sides build the same. Float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RECORD = Path(__file__).with_name("adabn.json")
WEIGHTS_SEED, IMAGES_SEED = 20, 21
BATCHES, SHOWN = 4, 3
# A domain is asked for by a tensor of its number.
TARGET = torch.tensor([1])


def build_network() -> nn.Sequential:
    """Conv 3×3-4, BatchNorm, ReLU; conv 3×3-6, BatchNorm, ReLU; mean, fc 3; in evaluation mode."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).double()
    numbers = np.random.Generator(np.random.PCG64(WEIGHTS_SEED))
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.from_numpy(numbers.random(tuple(value.shape)))
            value.copy_(drawn + 0.5 if name.endswith("running_var") else drawn - 0.3)
    return network.eval()


def build_batches() -> list[Tensor]:
    """Four batches of eight images, of little variance, each a little brighter than the last."""
    numbers = np.random.Generator(np.random.PCG64(IMAGES_SEED))
    images = torch.from_numpy(numbers.random((BATCHES, 8, 2, 9, 9)))
    return [0.2 * batch + 0.02 * number for number, batch in enumerate(images)]


def adapted(bn_type: type[nn.Module], run: Callable[[Any, list[Any]], None]) -> dict[str, Any]:
    """Statistics of the target's BatchNorms, and logits, after `run` on AdaBN's model."""
    from pytorch_adapt.layers import AdaBNModel

    model = AdaBNModel(build_network(), affine_domain=0, bn_type=bn_type).double()
    norms = [model.model[1].bns[1], model.model[4].bns[1]]
    model.train()
    with torch.no_grad():
        run(model, norms)
        model.eval()
        logits = model(build_batches()[0][:SHOWN], TARGET)
    # A PopulationBatchNorm2d applies its final ones.
    kind = "final" if hasattr(norms[0], "final_mean") else "running"
    return {
        "mean": [getattr(norm, f"{kind}_mean").tolist() for norm in norms],
        "var": [getattr(norm, f"{kind}_var").tolist() for norm in norms],
        "logits": logits.tolist(),
    }


def default(model: Any, _norms: list[Any]) -> None:
    """All batches, in training mode."""
    for images in build_batches():
        model(images, TARGET)


def cumulative(model: Any, norms: list[Any]) -> None:
    """All batches, with the cumulative average."""
    for norm in norms:
        norm.momentum = None
    default(model, norms)


def population(model: Any, norms: list[Any]) -> None:
    """One batch, each layer behind the ones that are done, as the library's examples have it."""
    from pytorch_adapt.layers.adaptive_batch_norm import finalize_bn, set_bn_layer_to_train

    for norm in norms:
        norm.reset_running_stats()
    for number in range(len(norms)):
        set_bn_layer_to_train(model, number, type(norms[0]))
        model(build_batches()[0], TARGET)
        finalize_bn(model, type(norms[0]))


def main() -> None:
    """Write what pytorch-adapt computes."""
    import pytorch_adapt
    from pytorch_adapt.layers import PopulationBatchNorm2d

    record = {
        "pytorch-adapt": pytorch_adapt.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seeds": {"weights": WEIGHTS_SEED, "images": IMAGES_SEED},
        "default": adapted(nn.BatchNorm2d, default),
        "cumulative": adapted(nn.BatchNorm2d, cumulative),
        "population": adapted(PopulationBatchNorm2d, population),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
