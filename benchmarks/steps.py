"""One GAM step, three ways: by hand in plain torch, by gam_ray, by gam_ray with looked-up sources.

    python benchmarks/steps.py --json benchmarks/results/steps.json

All ways do the same mathematics (both players of Eq. 3 on the same layers, drift, Adam) on the same
images, one after another in rounds on one thread; what is told is the median over the rounds, and
each way by the first. *By hand* is written as one would in an afternoon; *by hand, channels last*
lays out memory as gam_ray does. gam_ray's step also measures each discriminator's health.
`--workers` adds ERFNet on one and on two data-parallel workers of one thread each; `--peers` steps
of pytorch-adapt and skada in the environment of that Python (see `peers/time_steps.py`), beside
gam_ray's with a discriminator on the same layer. The floor of a way is what its multiplications
and additions would take at the speed of a convolution that suits the machine best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tables import stamp
from torch import Tensor, nn
from torch.nn.functional import conv2d, softplus
from torch.utils.flop_counter import FlopCounterMode

from gam_ray.adaptation import (
    Adam,
    Discriminators,
    GeneralMatching,
    Players,
    TappedNetwork,
    build_discriminator,
    choose_layers,
    train_mode,
)
from gam_ray.networks import MatchableNetwork, build_network

Step = Callable[[int], Any]
WEIGHT, DRIFT, BETAS, RATE = 0.1, 1.0, (0.5, 0.999), 2e-4
BATCHES = 4


@dataclass(frozen=True)
class Case:
    """A network, its images [C, H, W] and layers with a discriminator."""

    network: str
    classes: int
    shape: tuple[int, int, int]
    layers: tuple[str, ...]
    batch: int
    steps: int


FEATURES = "LeNet, fc3 alone, batch 128"
CASES = {
    FEATURES: Case("lenet", 10, (1, 28, 28), ("fc3",), 128, 10),
    "LeNet, batch 128": Case("lenet", 10, (1, 28, 28), ("conv2", "fc3", "fc4"), 128, 10),
    "ERFNet, batch 4, 240×176": Case(
        "erfnet", 11, (3, 176, 240), ("layer4", "layer8", "layer12", "layer17"), 4, 2
    ),
}


def main() -> None:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--workers", action="store_true", help="also one worker against two")
    options.add_argument("--peers", type=Path, help="Python of the peers' environment")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    found, speeds = {}, {}
    for name, case in CASES.items():
        found[name], speeds[name] = compare(case, given.rounds)
    if given.peers:
        script = Path(__file__).parent / "peers" / "time_steps.py"
        command = [str(given.peers), str(script), str(CASES[FEATURES].batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[FEATURES] |= json.loads(done.stdout)
    floors = {name: floor(case, speeds[name]) for name, case in CASES.items()}
    for name, ways in found.items():
        first = next(iter(ways.values()))
        for way, ms in ways.items():
            least = f"{floors[name][way]:.1f} ms" if way in floors[name] else ""
            print(f"| {name} | {way} | {ms:.1f} ms | {ms / first:.2f} | {least} |")
    content: dict[str, Any] = {
        **stamp(),
        "rounds": given.rounds,
        "gflops_a_second": {name: speed / 1e9 for name, speed in speeds.items()},
        "ms": found,
        "floor_ms": floors,
    }
    if given.workers:
        content["workers_ms"] = workers(CASES["ERFNet, batch 4, 240×176"])
        one, two, half = content["workers_ms"].values()
        print(f"| ERFNet, workers | 1: {one:.0f} ms, 2: {two:.0f} ms | × {one / two:.2f} |")
        print(f"| ERFNet, half the batch alone | {half:.0f} ms | × {one / half:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def compare(case: Case, rounds: int) -> tuple[dict[str, float], float]:
    """Way → milliseconds a step, the median of `rounds` interleaved rounds; `flops_a_second`."""
    ways = {
        "by hand": by_hand(case, torch.contiguous_format),
        "by hand, channels last": by_hand(case, torch.channels_last),
        "gam_ray": by_gam_ray(case, looked_up=False),
        "gam_ray, sources looked up": by_gam_ray(case, looked_up=True),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    speeds = []
    for number in range(rounds + 1):
        speeds.append(flops_a_second())
        for way, step in ways.items():
            started = time.perf_counter()
            for n in range(case.steps):
                step(n % BATCHES)
            if number:  # the first one warms up
                times[way].append(1000 * (time.perf_counter() - started) / case.steps)
    return {way: statistics.median(each) for way, each in times.items()}, statistics.median(speeds)


def flops_a_second() -> float:
    """Of this thread, by a convolution that suits it: twice what products of matrices reach on AMD.

    The median of 20 times 3×3 over 256 channels of 8 images of 16×16.
    """
    images, kernels = torch.rand(8, 256, 16, 16), torch.rand(256, 256, 3, 3)
    images, kernels = (each.to(memory_format=torch.channels_last) for each in (images, kernels))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        conv2d(images, kernels, padding=1)
        times.append(time.perf_counter() - began)
    return 2 * 9 * 256 * images.numel() / statistics.median(times)


def floor(case: Case, speed: float) -> dict[str, float]:
    """gam_ray's ways → milliseconds of their arithmetic alone."""
    found = {}
    for way, looked_up in (("gam_ray", False), ("gam_ray, sources looked up", True)):
        step = by_gam_ray(case, looked_up=looked_up)
        with FlopCounterMode(display=False) as counter:
            step(0)
        found[way] = 1000 * counter.get_total_flops() / speed
    return found


def draw(case: Case, seed: int, layout: torch.memory_format) -> list[Tensor]:
    """Batches of random images."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(case.batch, *case.shape, generator=generator).to(memory_format=layout)
        for _ in range(BATCHES)
    ]


def networks(
    case: Case, layout: torch.memory_format
) -> tuple[MatchableNetwork, MatchableNetwork, dict[str, nn.Module]]:
    """Source, target and a discriminator for each layer, the same for each way."""
    torch.manual_seed(0)
    source = build_network(case.network, in_channels=case.shape[0], classes=case.classes)
    source = source.to(memory_format=layout).eval().requires_grad_(requires_grad=False)
    target = deepcopy(source).requires_grad_(requires_grad=True)
    train_mode(target, statistics=False, dropout=False)
    layers = choose_layers(source.layers, case.layers)
    seen = TappedNetwork(source, layers)(draw(case, 0, layout)[0][:1])
    judges = {
        name: build_discriminator(value.shape).to(memory_format=layout)
        for name, value in seen.items()
    }
    return source, target, judges


def adam(modules: list[nn.Module]) -> torch.optim.Adam:
    """Adam of torch itself, fused."""
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.Adam(parameters, lr=RATE, betas=BETAS, fused=True)


def by_hand(case: Case, layout: torch.memory_format) -> Step:
    """The step as a page of plain torch: no hooks, no health, nothing kept."""
    source, target, judges = networks(case, layout)
    target_adam, judges_adam = adam([target]), adam(list(judges.values()))
    images = draw(case, 1, layout), draw(case, 2, layout)

    def look(network: MatchableNetwork, values: Tensor) -> dict[str, Tensor]:
        seen = {}
        for name, layer in network.layers.items():
            values = layer(values)
            seen[name] = values
        return {name: seen[name] for name in case.layers}

    def step(number: int) -> None:
        with torch.no_grad():
            on_source = look(source, images[0][number])
        on_target = look(target, images[1][number])
        judging = torch.zeros(())
        for name, judge in judges.items():
            real, fake = judge(on_source[name]), judge(on_target[name].detach())
            judging = judging + WEIGHT * (softplus(-real).mean() + softplus(fake).mean()) / 2
        judges_adam.zero_grad()
        torch.autograd.backward(judging)
        for judge in judges.values():
            judge.requires_grad_(requires_grad=False)
        fooling = torch.zeros(())
        for name, judge in judges.items():
            fooling = fooling + WEIGHT * softplus(-judge(on_target[name])).mean()
        pairs = zip(source.parameters(), target.parameters(), strict=True)
        fooling = fooling + DRIFT * torch.stack([(t - s).square().sum() for s, t in pairs]).sum()
        target_adam.zero_grad()
        torch.autograd.backward(fooling)
        for judge in judges.values():
            judge.requires_grad_(requires_grad=True)
        judges_adam.step()
        target_adam.step()

    return step


def matching_of(
    case: Case,
    source: MatchableNetwork,
    target: MatchableNetwork,
    discriminators: Discriminators,
    precision: torch.dtype = torch.float32,
) -> GeneralMatching:
    """What takes a trial's steps with these networks."""
    players = Players(
        source=source,
        target=target,
        source_layers=choose_layers(source.layers, case.layers),
        target_layers=choose_layers(target.layers, case.layers),
        discriminators=discriminators,
        target_optimizer=Adam(target.parameters(), lr=RATE, betas=BETAS),
        discriminator_optimizer=Adam(discriminators.parameters(), lr=RATE, betas=BETAS),
    )
    return GeneralMatching(
        players,
        weights=dict.fromkeys(case.layers, WEIGHT),
        adversary="gan",
        drift_weight=DRIFT,
        precision=precision,
    )


def by_gam_ray(case: Case, *, looked_up: bool) -> Step:
    """The step that trials take."""
    source, target, judges = networks(case, torch.channels_last)
    matching = matching_of(case, source, target, Discriminators(judges))
    images = draw(case, 1, torch.channels_last), draw(case, 2, torch.channels_last)
    rows: list[Mapping[str, Tensor]] = [matching.source_activations(batch) for batch in images[0]]
    # Copied at each step, as a lookup among all images does.
    taken = torch.arange(case.batch)

    def step(number: int) -> None:
        given: Tensor | Mapping[str, Tensor] = images[0][number]
        if looked_up:
            given = {name: values[taken] for name, values in rows[number].items()}
        matching.step(given, images[1][number])

    return step


def workers(case: Case) -> dict[str, float]:
    """Workers → milliseconds a step of one global batch, one thread each; medians.

    ``half`` is one worker on half of the batch with the other core idle, which is what two could
    reach if they did not disturb each other.
    """
    found = {}
    half = replace(case, batch=case.batch // 2)
    for name, count, batch in (("1", 1, case), ("2", 2, case), ("half", 1, half)):
        context = mp.get_context("forkserver")
        queue = context.Queue()
        group = [
            context.Process(target=_worker, args=(number, count, batch, queue))
            for number in range(count)
        ]
        for process in group:
            process.start()
        found[name] = float(queue.get(timeout=600))
        for process in group:
            process.join()
    return found


def _worker(number: int, count: int, case: Case, queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=number, world_size=count)
    share = replace(case, batch=case.batch // count)
    step = by_gam_ray(share, looked_up=False)
    times = []
    for n in range(16):
        dist.barrier()
        started = time.perf_counter()
        step(n % BATCHES)
        times.append(1000 * (time.perf_counter() - started))
    if number == 0:
        queue.put(statistics.median(times[4:]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
