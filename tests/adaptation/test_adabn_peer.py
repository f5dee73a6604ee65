"""AdaBN against what pytorch-adapt computes from the same weights and images.

`benchmarks/peers/record_adabn.py` wrote the recording and tells how. Where the library goes
other ways, its result is made from ours on its own terms.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gam_ray.adaptation import adapt_batch_norm

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
RECORD = json.loads((PEERS / "adabn.json").read_text(encoding="utf-8"))
specification = importlib.util.spec_from_file_location("record_adabn", PEERS / "record_adabn.py")
assert specification is not None
assert specification.loader is not None
recorder = importlib.util.module_from_spec(specification)
specification.loader.exec_module(recorder)

Statistics = dict[str, list[Tensor]]


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def ours(batches: list[Tensor]) -> Statistics:
    """The statistics after AdaBN on these batches."""
    network = recorder.build_network()
    adapt_batch_norm(network, batches)
    norms = norms_of(network)
    return {
        "mean": [norm.running_mean.clone() for norm in norms],
        "var": [norm.running_var.clone() for norm in norms],
    }


def assert_recorded(found: Statistics, name: str) -> None:
    """Statistics and logits are those of pytorch-adapt, in float64."""
    expected: dict[str, Any] = RECORD[name]
    network = recorder.build_network()
    for number, norm in enumerate(norms_of(network)):
        norm.running_mean.copy_(found["mean"][number])
        norm.running_var.copy_(found["var"][number])
    with torch.no_grad():
        logits = network(recorder.build_batches()[0][: recorder.SHOWN])
    for value, recorded in (
        *zip(found["mean"], expected["mean"], strict=True),
        *zip(found["var"], expected["var"], strict=True),
        (logits, expected["logits"]),
    ):
        wanted = torch.tensor(recorded, dtype=torch.float64)
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-11)


def test_the_recording_is_of_the_seeds_in_use() -> None:
    assert RECORD["pytorch-adapt"] == "0.0.83"
    assert RECORD["seeds"] == {"weights": recorder.WEIGHTS_SEED, "images": recorder.IMAGES_SEED}


def test_a_cumulative_average_is_ours() -> None:
    assert_recorded(ours(recorder.build_batches()), "cumulative")


def test_its_momentum_is_a_weighted_sum_of_ours_and_keeps_the_initial_variance() -> None:
    """By default it goes 0.1 of the way from mean 0 and variance 1 at each batch."""
    initial = {"mean": 0.0, "var": 1.0}
    found: Statistics = {
        name: [torch.full((width,), value, dtype=torch.float64) for width in (4, 6)]
        for name, value in initial.items()
    }
    for images in recorder.build_batches():
        of_batch = ours([images])
        for name, kept in found.items():
            found[name] = [
                0.9 * old + 0.1 * new for old, new in zip(kept, of_batch[name], strict=True)
            ]
    assert_recorded(found, "default")
    too_large = found["var"][0] / ours(recorder.build_batches())["var"][0]
    assert too_large.min().item() > 50


def test_its_population_statistics_of_one_batch_are_ours_divided_by_n() -> None:
    """Ours, as torch keeps them, divide a batch's squares by n − 1."""
    images = recorder.build_batches()[0]
    found = ours([images])
    found["var"] = [
        variance * (count - 1) / count
        for variance, count in zip(found["var"], (8 * 7 * 7, 8 * 5 * 5), strict=True)
    ]
    assert_recorded(found, "population")


@pytest.mark.parametrize("name", ["default", "cumulative", "population"])
def test_recordings_differ_from_the_source_statistics(name: str) -> None:
    """A network that was left alone would be seen."""
    for number, norm in enumerate(norms_of(recorder.build_network())):
        for kept, kind in ((norm.running_mean, "mean"), (norm.running_var, "var")):
            recorded = torch.tensor(RECORD[name][kind][number], dtype=torch.float64)
            assert (recorded - kept).abs().max().item() > 0.05
