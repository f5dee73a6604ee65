"""Source activations: looked up, they are what the source network gives out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import place, start_workers, trial
from torch import Tensor, nn

from gam_ray.adaptation import Taps, rank
from gam_ray.networks import MatchableNetwork, build_network
from gam_ray.training import source_activations as module
from gam_ray.training.data import to_float
from gam_ray.training.evaluation import BATCH_PIXELS
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.source_activations import SourceActivations, pays
from gam_ray.training.trial import run_trial

CPU = torch.device("cpu")
FC3_BYTES, CONV2_BYTES = 4 * 500, 4 * 50 * 16


def lenet() -> MatchableNetwork:
    torch.manual_seed(0)
    return build_network("lenet", in_channels=1, classes=10).eval()


def digits(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)


def expected(network: MatchableNetwork, images: Tensor) -> dict[str, Tensor]:
    with Taps(network.layers) as taps, torch.no_grad():
        network(to_float(images))
    return taps.seen


def test_rows_are_the_networks_activations_in_the_order_of_the_images() -> None:
    network = lenet()
    images = digits(BATCH_PIXELS // 28**2 + 37)  # several batches
    rows = SourceActivations().keep(network, ("fc3", "conv2"), images, CPU)
    wanted = expected(network, images)
    assert list(rows) == ["fc3", "conv2"]
    for name, found in rows.items():
        torch.testing.assert_close(found, wanted[name], rtol=1e-5, atol=1e-6)


def by_worker(folder: Path, _: Any) -> None:
    rows = SourceActivations().keep(lenet(), ("fc4",), digits(45), CPU)
    torch.save(rows["fc4"], folder / f"{rank()}.pt")


def test_every_worker_has_all_rows_though_each_computes_its_share(tmp_path: Path) -> None:
    start_workers(by_worker, 2, tmp_path, None)
    wanted = expected(lenet(), digits(45))["fc4"]
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def names_by_worker(folder: Path, _: Any) -> None:
    module.MOST_BYTES = 45 * CONV2_BYTES - 1
    rows = SourceActivations().keep(lenet(), ("conv2", "fc4"), digits(45), CPU)
    torch.save(list(rows), folder / f"{rank()}.pt")


def test_all_workers_keep_the_same_layers(tmp_path: Path) -> None:
    start_workers(names_by_worker, 2, tmp_path, None)
    assert [torch.load(tmp_path / f"{number}.pt") for number in range(2)] == [["fc4"], ["fc4"]]


def test_only_layers_that_are_not_kept_yet_are_computed_and_no_further() -> None:
    network, images, kept = lenet(), digits(20), SourceActivations()
    ran: list[str] = []
    for name, layer in network.layers.items():
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    kept.keep(network, ("fc3",), images, CPU)
    assert "fc4" not in ran
    ran.clear()
    kept.keep(network, ("fc3",), images, CPU)
    assert ran == []
    both = kept.keep(network, ("conv2", "fc3"), images, CPU)
    assert set(ran) == {"conv1", "conv2"}
    assert set(both) == {"conv2", "fc3"}


def test_the_smallest_layers_are_kept_as_far_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, kept = lenet(), digits(20), SourceActivations()
    monkeypatch.setattr(module, "MOST_BYTES", 20 * (FC3_BYTES + CONV2_BYTES) - 1)
    assert set(kept.keep(network, ("conv2", "fc3"), images, CPU)) == {"fc3"}
    assert set(kept.keep(network, ("conv2", "fc4"), images, CPU)) == {"fc4"}
    monkeypatch.setattr(module, "MOST_BYTES", 20 * (FC3_BYTES + CONV2_BYTES + 40))
    assert set(kept.keep(network, ("conv2",), images, CPU)) == {"conv2"}


def test_a_pass_must_pay() -> None:
    assert pays(steps=100, batch_size=64, images=12_800)
    assert not pays(steps=100, batch_size=64, images=12_801)


class _Ends:
    """Keeps the last report."""

    def report(self, report: Report) -> Verdict:
        """Go on."""
        self.last = report
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing."""

    def is_to_pause(self) -> bool:
        """Never."""
        return False


@pytest.mark.parametrize("layers", [["conv2", "fc3"], ["fc4"]])
def test_a_trial_ends_alike_whether_activations_are_looked_up_or_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: list[str]
) -> None:
    config = trial(adaptation__layers=layers)
    passes = []
    keep = SourceActivations.keep

    def counted(
        self: SourceActivations, network: nn.Module, names: Any, *rest: Any
    ) -> dict[str, Tensor]:
        passes.append(names)
        # Of two layers one is computed step by step.
        return keep(self, network, names[:1], *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SourceActivations, "keep", counted)
    ends = []
    for share, folder in ((0.0, "looked up"), (1e9, "computed")):
        monkeypatch.setattr(module, "LEAST_SHARE", share)
        reporter = _Ends()
        run_trial(config, place(tmp_path, folder), reporter)
        ends.append(reporter.last)
    assert passes == [tuple(layers)]
    torch.testing.assert_close(ends[0].predictions, ends[1].predictions, rtol=1e-3, atol=1e-4)
    for name in ("loss/target", f"accuracy/source/{layers[0]}"):
        assert ends[0].metrics[name] == pytest.approx(ends[1].metrics[name], rel=1e-3)


def test_augmented_source_images_are_computed_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*_: Any) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(SourceActivations, "keep", keep)
    config = trial(augmentation__shift=0.1)
    run_trial(config, place(tmp_path, "augmented"), _Ends())
    with pytest.raises(AssertionError, match="looked up"):
        run_trial(trial(), place(tmp_path, "plain"), _Ends())
