"""What a GPU makes of it: digits steps, ERFNet's, and many trials on one card.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    python benchmarks/gpu.py --parts packing --json benchmarks/results/gpu.json

*digits* is a trial of 10,000 steps of 128 + 128 images, LeNet with discriminators at fc3 and fc4,
as a study runs it; launched step by step, and captured. *streets* is a step of ERFNet on 1024×512.
*packing* is how many digits steps a second K trials make together: in processes of their own that
take turns, the same under NVIDIA's MPS where its daemon can be started, and as one batched program
(torch.func), which needs trials of one shape. Images are noise: no data set is needed. Parts that
are not named keep their figures in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from subprocess import PIPE
from typing import Any
from unittest import mock

import torch
from steps import BETAS, RATE, WEIGHT, Case, draw, matching_of, networks
from tables import stamp
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from gam_ray.adaptation import (
    Adam,
    Discriminators,
    GeneralMatching,
    build_discriminator,
)
from gam_ray.config import TrialConfig, apply_settings
from gam_ray.config.trial import FORMS
from gam_ray.domains import LabelledDomain, LabelledImages, Split, register_domain
from gam_ray.networks import build_network
from gam_ray.training import captured
from gam_ray.training.captured import CapturedSteps
from gam_ray.training.data import to_float
from gam_ray.training.precision import CompiledLayers
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.trial import Place, run_trial

GPU = torch.device("cuda")
STEPS, IMAGES = 10_000, 60_000
DIGITS = Case("lenet", 10, (1, 28, 28), ("fc3", "fc4"), 128, 1)
STREETS = Case("erfnet", 19, (3, 512, 1024), ("layer4", "layer8", "layer12", "layer17"), 8, 1)
CHANGES = {"rotate": 15, "shift": 0.1, "zoom": 0.1}
PACKED = (1, 2, 4, 8, 16)
PACKED_S = 3.0
ROUNDS = 5
ENDLESS = 10**9


class Noise(LabelledDomain):
    """Digits of noise."""

    class_names, image_shape = tuple("0123456789"), (1, 28, 28)

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        count = IMAGES if split == "train" else 1_000
        generator = torch.Generator().manual_seed(len(type(self).__name__))
        images = torch.randint(0, 256, (count, *self.image_shape), generator=generator)
        return {split: LabelledImages(images.to(torch.uint8), torch.arange(count) % 10)}


register_domain("noise-source")(type("NoiseSource", (Noise,), {}))
register_domain("noise-target")(type("NoiseTarget", (Noise,), {}))


class Clock:
    """When which step was done."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}

    def report(self, report: Report) -> Verdict:  # noqa: ARG002
        """Taken."""
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002
        """Kept of adaptation; the trial has waited for the GPU."""
        if stage == "adapting":
            self.times[done] = time.perf_counter()

    def is_to_pause(self) -> bool:
        """Never."""
        return False

    def seconds(self) -> float:
        """Of 10,000 steps, from those between the first look and the last."""
        first, last = min(self.times), max(self.times)
        return (self.times[last] - self.times[first]) / (last - first) * STEPS


def digits() -> dict[str, dict[str, float]]:
    """Form of the objective → way → seconds of 10,000 steps."""
    return {form: digits_in(adaptation) for form, adaptation in FORMS.items()}


def digits_in(adaptation: Mapping[str, Any]) -> dict[str, float]:
    """Way → seconds of 10,000 steps."""
    config = TrialConfig.from_mapping(
        {
            "task": {"source": "noise-source", "target": "noise-target"},
            "pretraining": {"steps": 50},
            "adaptation": {"layers": list(DIGITS.layers), **adaptation},
            "steps": STEPS,
            "report_every": STEPS,
        }
    )
    short = config.model_copy(update={"steps": 500})
    found = {}
    with tempfile.TemporaryDirectory() as folder:

        def timed(config: TrialConfig, name: str) -> float:
            clock, home = Clock(), Path(folder)
            run_trial(config, Place(home / name, home / "sources", None, GPU), clock)
            return clock.seconds()

        with mock.patch.object(captured, "WARM_UP", STEPS):
            found["launched one by one"] = timed(short, "launched")
        found["captured"] = timed(config, "captured")
        found["captured and compiled"] = timed(config.model_copy(update={"compiled": True}), "made")
        changed = {"steps": 3000, "report_every": 3000, "augmentation": CHANGES}
        found["captured, images changed there"] = timed(apply_settings(config, changed), "changed")
        began = time.perf_counter()
        timed(config.model_copy(update={"seed": 1}), "whole")
        found["captured: the whole trial, second of its process"] = time.perf_counter() - began
    return found


Around = Callable[[], AbstractContextManager[None]]


def matching(
    case: Case, precision: torch.dtype, compiled: ExitStack | None = None
) -> tuple[GeneralMatching, Around]:
    """gam_ray's step on the GPU, and what is around each; compiled while the stack is open."""
    source, target, judges = networks(case, torch.channels_last)
    source, target = source.to(GPU), target.to(GPU)
    step = matching_of(case, source, target, Discriminators(judges).to(GPU), precision)
    if compiled is None:
        return step, nullcontext
    return step, compiled.enter_context(CompiledLayers(source, target)).in_steps


def by_hand(case: Case) -> Callable[[int], Any]:
    """A page of plain torch, float32, as torch has it by default."""
    source, target, judges = networks(case, torch.contiguous_format)
    source, target = source.to(GPU), target.to(GPU)
    for judge in judges.values():
        judge.to(GPU)
    both = [
        torch.optim.Adam(module.parameters(), lr=RATE, betas=BETAS, fused=True)
        for module in (target, nn.ModuleDict(judges))
    ]
    sides = [[each.to(GPU) for each in draw(case, s, torch.contiguous_format)] for s in (1, 2)]

    def look(network: Any, values: Tensor) -> dict[str, Tensor]:
        seen = {}
        for name, layer in network.layers.items():
            values = seen[name] = layer(values)
            if name == case.layers[-1]:
                break
        return {name: seen[name] for name in case.layers}

    def step(number: int) -> None:
        with torch.no_grad():
            real = look(source, sides[0][number % 4])
        fake = look(target, sides[1][number % 4])
        judging = sum(
            WEIGHT
            * (softplus(-judge(real[name])).mean() + softplus(judge(fake[name].detach())).mean())
            / 2
            for name, judge in judges.items()
        )
        both[1].zero_grad()
        judging.backward()
        both[0].zero_grad()
        fooling = sum(WEIGHT * softplus(-judge(fake[n])).mean() for n, judge in judges.items())
        pairs = zip(source.parameters(), target.parameters(), strict=True)
        (fooling + sum((t - s).square().sum() for s, t in pairs)).backward(
            inputs=list(target.parameters())
        )
        both[1].step()
        both[0].step()

    return step


def streets() -> dict[str, Any]:
    """Way → milliseconds a step, images a second of both domains; the card's ceiling."""
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[int], Any]] = {"by hand, float32": by_hand(STREETS)}
    with ExitStack() as compiled:
        for name, precision, stack in (
            ("float32", torch.float32, None),
            ("bfloat16", torch.bfloat16, None),
            ("bfloat16, compiled", torch.bfloat16, compiled),
        ):
            step, around = matching(STREETS, precision, stack)
            ways[f"gam_ray, {name}"] = captured_steps(STREETS, step, around)
        for way, take in ways.items():
            ms = median_ms(take, 10)
            found[way] = {"ms": ms, "images_a_second": 2000 * STREETS.batch / ms}
    with FlopCounterMode(display=False) as counter:
        ways["by hand, float32"](0)
    matrix = torch.randn(8192, 8192, device=GPU, dtype=torch.bfloat16)
    ms = median_ms(lambda _: matrix @ matrix, 20)
    found["tflops_of_a_step"] = counter.get_total_flops() / 1e12
    found["tflops_a_second_of_the_card_in_bfloat16"] = 2 * 8192**3 / ms / 1e9
    return found


def captured_steps(case: Case, step: GeneralMatching, around: Around) -> Callable[[int], Any]:
    """Steps as a trial takes them, from images that lie on the card."""
    count = 4 * case.batch
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, (count, *case.shape), generator=generator, dtype=torch.uint8).to(GPU)
        for _ in range(2)
    ]

    def function(indices: Tensor) -> None:
        with around():
            step.step(*(to_float(each[indices]) for each in images))

    def inputs(number: int) -> tuple[Tensor]:
        return (torch.arange(case.batch) + number % 4 * case.batch,)

    return CapturedSteps(function, inputs, steps=ENDLESS, device=GPU)


def median_ms(step: Callable[[int], Any], steps: int) -> float:
    """Of a step, over rounds of so many."""
    for number in range(5):
        step(number)
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for number in range(steps):
            step(number)
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began) / steps)
    return statistics.median(times)


def worker() -> None:
    """One of K trials: says that it is ready, waits for a line, says its steps a second."""
    torch.set_float32_matmul_precision("high")
    step, _ = matching(DIGITS, torch.float32)
    source, target = (draw(DIGITS, seed, torch.channels_last)[0].to(GPU) for seed in (1, 2))
    rows = step.source_activations(source)
    order = torch.arange(DIGITS.batch)

    def function(taken: Tensor) -> None:
        step.step({name: value[taken] for name, value in rows.items()}, target[taken])

    steps = CapturedSteps(function, lambda _: (order,), steps=ENDLESS, device=GPU)
    for number in range(50):
        steps(number)
    torch.cuda.synchronize()
    say("ready")
    sys.stdin.readline()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < PACKED_S:
        for number in range(100):
            steps(count + number)
        torch.cuda.synchronize()
        count += 100
    say(count / (time.perf_counter() - began))


def say(what: object) -> None:
    """To the process that started this one."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def packing() -> dict[str, dict[str, float]]:
    """Way → K → steps a second of all K trials together."""
    found = {"taking turns": {str(k): packed(k, {}) for k in PACKED}}
    with mps() as environment:
        if environment:
            found["under MPS"] = {str(k): packed(k, environment) for k in PACKED}
    found["batched"] = {str(k): batched(k) for k in PACKED}
    return found


def packed(count: int, environment: dict[str, str]) -> float:
    """Steps a second of `count` processes together."""
    command = [sys.executable, __file__, "--worker"]
    own = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=own)
            )
            for _ in range(count)
        ]
        talk = [(process.stdin, process.stdout) for process in started]
        for _, heard in talk:
            heard.readline()
        for told, _ in talk:
            told.write("go\n")
            told.flush()
        return sum(float(heard.readline()) for _, heard in talk)


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """What a process needs in its environment to share the card by MPS; empty without it."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **own}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([control, "-d"], env=environment, check=True, **quiet)
        try:
            yield own
        finally:
            subprocess.run(
                [control], input="quit\n", text=True, env=environment, check=False, **quiet
            )


def batched(count: int) -> float:
    """Steps a second of `count` trials of one shape as one program, without health figures."""
    torch.set_float32_matmul_precision("high")
    nets = [build_network("lenet", in_channels=1, classes=10).to(GPU) for _ in range(count)]
    shapes = {"fc3": torch.Size([1, 500]), "fc4": torch.Size([1, 10])}
    judges = [
        nn.ModuleDict({name: build_discriminator(shape) for name, shape in shapes.items()}).to(GPU)
        for _ in range(count)
    ]
    learned = [stack_module_state(nets)[0], stack_module_state(judges)[0]]  # type: ignore[arg-type]
    source = {name: value.detach()[0].clone() for name, value in learned[0].items()}
    target = torch.rand(count, DIGITS.batch, *DIGITS.shape, device=GPU)
    rows = {n: torch.rand(count, DIGITS.batch, *s[1:], device=GPU) for n, s in shapes.items()}
    weight = torch.full((count,), WEIGHT, device=GPU)

    def judge(state: dict[str, Tensor], seen: dict[str, Tensor]) -> list[Tensor]:
        return [
            functional_call(
                judges[0][name],
                {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(name)},
                (value,),
            )
            for name, value in seen.items()
        ]

    def loss(net: Any, state: Any, images: Tensor, real: Any, share: Tensor) -> Tensor:
        held = {name: value.detach() for name, value in state.items()}
        layers = nets[0].layers
        values, seen = images, {}
        for name, layer in layers.items():
            own = {k.removeprefix(f"{name}."): v for k, v in net.items() if k.startswith(name)}
            values = functional_call(layer, own, (values,))
            if name in shapes:
                seen[name] = values
        fooling = sum(softplus(-each).mean() for each in judge(held, seen))
        drift = sum((net[name] - source[name]).square().sum() for name in net)
        both = {name: torch.cat([real[name], seen[name].detach()]) for name in seen}
        half = DIGITS.batch
        judging = sum(
            softplus(-each[:half]).mean() + softplus(each[half:]).mean()
            for each in judge(state, both)
        )
        total: Tensor = share * (fooling + judging / 2) + drift
        return total

    gradients = vmap(grad(loss, argnums=(0, 1)))
    parameters = [nn.Parameter(each.detach()) for part in learned for each in part.values()]
    adam = Adam(parameters, lr=RATE, betas=BETAS)

    def function(_: Tensor) -> None:
        values = iter([each.detach() for each in parameters])
        states = [{name: next(values) for name in part} for part in learned]
        found = gradients(*states, target, rows, weight)
        every = [each for part in found for each in part.values()]
        for parameter, gradient in zip(parameters, every, strict=True):
            parameter.grad = gradient.contiguous()
        adam.step()

    nothing = torch.zeros(1)
    steps = CapturedSteps(function, lambda _: (nothing,), steps=ENDLESS, device=GPU)
    return 1000 * count / median_ms(steps, 200)


PARTS: dict[str, Callable[[], Any]] = {"digits": digits, "streets": streets, "packing": packing}


def main() -> None:
    """Measure, print, write JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--json", type=Path)
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if not torch.cuda.is_available():
        options.error("there is no CUDA device here")
    if given.worker:
        worker()
        return
    content: dict[str, Any] = {}
    if given.json and given.json.exists():
        content = json.loads(given.json.read_text())
    content |= {**stamp(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for part in given.parts:
        content[part] = PARTS[part]()
        print(part, json.dumps(content[part], indent=1), flush=True)
        torch.cuda.empty_cache()
        if given.json:
            given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
