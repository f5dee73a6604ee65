"""One step of general matching, against the same step written out in plain torch."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest
import torch
from tiny_network import (
    BETAS,
    LAYERS,
    LEARNING_RATE,
    SOURCE_IMAGES,
    TARGET_IMAGES,
    batch,
    tiny_players,
)
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    conv2d,
    cross_entropy,
    leaky_relu,
    max_pool2d,
    mse_loss,
)
from torch.utils.flop_counter import FlopCounterMode

from gam_ray.adaptation import Adam, GeneralMatching, HealthMeter, loss_ratios

WEIGHTS, STEPS = {"conv1": 0.1, "fc2": 0.7}, 3
Named = dict[str, Tensor]


def forward(p: Named, images: Tensor, match: Callable[[str, Tensor], Tensor]) -> Named:
    """Activations of the tiny network with parameters `p`, as far as a step looks at them."""
    maps = conv2d(images, p["conv1.0.weight"]).relu()
    maps = match("conv1", max_pool2d(maps, 2))
    hidden = match("fc2", (maps.reshape(len(maps), -1) @ p["fc2.1.weight"].T).relu())
    return {"conv1": maps, "fc2": hidden}


def whole(p: Named, images: Tensor, match: Callable[[str, Tensor], Tensor]) -> Named:
    """Those of all layers."""
    seen = forward(p, images, match)
    return {**seen, "fc3": match("fc3", seen["fc2"] @ p["fc3.weight"].T)}


def judge(p: Named, activations: Named) -> Named:
    """Logits of the discriminators with parameters `p`."""
    maps, hidden = activations["conv1"], activations["fc2"]
    conv, fc = "by_layer.conv1.", "by_layer.fc2."
    for layer, stride, padding in ((0, 2, 1), (2, 2, 1), (4, 1, 0)):
        weight, bias = p[f"{conv}{layer}.weight"], p[f"{conv}{layer}.bias"]
        maps = conv2d(maps, weight, bias, stride=stride, padding=padding)
        maps = leaky_relu(maps, 0.2) if layer < 4 else maps
    for layer in (0, 2, 4):
        hidden = hidden @ p[f"{fc}{layer}.weight"].T + p[f"{fc}{layer}.bias"]
        hidden = hidden.relu() if layer < 4 else hidden
    return {"conv1": maps, "fc2": hidden}


def unmatched(_name: str, activation: Tensor) -> Tensor:
    return activation


def channel_moments(activation: Tensor) -> tuple[Tensor, Tensor]:
    axes = [0, *range(2, activation.dim())]
    return activation.mean(axes), activation.var(axes, unbiased=False)


@dataclass
class Matching:
    """The closed form α A + β, with kept moments or with those of the batch."""

    momentum: float
    source: dict[str, tuple[Tensor, Tensor]]
    target: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def measure(self, name: str, activation: Tensor) -> Tensor:
        """Take the target moments from a pass over everything."""
        mean, variance = channel_moments(activation)
        self.target[name] = mean, variance.sqrt()
        return self.apply(name, activation, mean, variance.sqrt())

    def train(self, name: str, activation: Tensor) -> Tensor:
        mean, std = self.target[name]
        if self.momentum:
            kept_mean, kept_std, m = mean, std, self.momentum
            mean, variance = channel_moments(activation)
            std = (variance + 1e-5**2).sqrt()
            self.target[name] = (
                (1 - m) * kept_mean + m * mean.detach(),
                (1 - m) * kept_std + m * std.detach(),
            )
        return self.apply(name, activation, mean, std)

    def apply(self, name: str, activation: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        source_mean, source_std = self.source[name]
        shape = (1, -1) + (1,) * (activation.dim() - 2)
        alpha = torch.where(std < 1e-5, 1.0, source_std / std)
        return alpha.view(shape) * activation + (source_mean - alpha * mean).view(shape)


class PlainAdam:
    """Kingma and Ba 2015, for tensors that are replaced at every step."""

    def __init__(self) -> None:
        self.moments: dict[str, tuple[Tensor | float, Tensor | float]] = {}
        self.count = 0

    def step(self, parameters: Named, gradients: dict[str, Tensor | None]) -> Named:
        self.count += 1
        (b1, b2), stepped = BETAS, dict(parameters)
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            m, v = self.moments.get(name, (0.0, 0.0))
            m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
            self.moments[name] = m, v
            m_hat, v_hat = m / (1 - b1**self.count), v / (1 - b2**self.count)
            stepped[name] = parameters[name] - LEARNING_RATE * m_hat / (v_hat.sqrt() + 1e-8)
        return stepped


@dataclass
class PlainGame:
    """Both players and their optimizers, as tensors."""

    frozen: Named
    target: Named
    judges: Named
    match: Callable[[str, Tensor], Tensor]
    adversary: str
    drift: float
    reduction: str
    target_adam: PlainAdam = field(default_factory=PlainAdam)
    judges_adam: PlainAdam = field(default_factory=PlainAdam)

    def step(self, source_images: Tensor, target_images: Tensor) -> dict[str, Tensor]:
        """Step both players, each against the other as it was; what there was to see."""
        target = {name: p.detach().requires_grad_() for name, p in self.target.items()}
        judges = {name: p.detach().requires_grad_() for name, p in self.judges.items()}
        activations = forward(target, target_images, self.match)
        on_source = judge(judges, forward(self.frozen, source_images, unmatched))
        on_target = judge(judges, activations)
        on_detached = judge(judges, {name: a.detach() for name, a in activations.items()})
        judging, fooling = {}, {}
        for name in LAYERS:
            ones = self.error(on_source[name], 1) + self.error(on_detached[name], 0)
            judging[name], fooling[name] = ones / 2, self.error(on_target[name], 1)
        squares = {n: (target[n] - p).pow(2) for n, p in self.frozen.items()}
        parts = [x.mean() if self.reduction == "mean" else x.sum() for x in squares.values()]
        distance = torch.stack(parts).sum()
        total = 0.1 * fooling["conv1"] + 0.7 * fooling["fc2"] + self.drift * distance
        judging_total = 0.1 * judging["conv1"] + 0.7 * judging["fc2"]
        of_target, of_judges = gradients(total, target), gradients(judging_total, judges)
        self.target = self.target_adam.step(target, of_target)
        self.judges = self.judges_adam.step(judges, of_judges)
        seen = {"loss/drift": distance, "loss/target": total}
        seen["gradient_norm/target"] = length(of_target)
        for name in LAYERS:
            seen[f"loss/discriminator/{name}"] = judging[name]
            seen[f"loss/adversarial/{name}"] = fooling[name]
            seen[f"gradient_norm/{name}"] = length(of_judges, f"by_layer.{name}.")
            seen[f"accuracy/source/{name}"] = self.says_source(on_source[name]).double().mean()
            seen[f"accuracy/target/{name}"] = (~self.says_source(on_target[name])).double().mean()
        return seen

    def error(self, logits: Tensor, label: int) -> Tensor:
        """The adversarial loss of logits that should say `label`, 1 for source."""
        if self.adversary == "inverted":
            classes = torch.full((len(logits), *logits.shape[2:]), label)
            return cross_entropy(logits, classes)
        error = binary_cross_entropy_with_logits if self.adversary == "gan" else mse_loss
        return error(logits, torch.full_like(logits, label))

    def says_source(self, logits: Tensor) -> Tensor:
        if self.adversary == "inverted":
            return logits.argmax(1) == 1
        return logits > (0.0 if self.adversary == "gan" else 0.5)


def length(gradients: dict[str, Tensor | None], prefix: str = "") -> Tensor:
    found = [g.flatten() for n, g in gradients.items() if g is not None and n.startswith(prefix)]
    return torch.cat(found).norm()


def gradients(loss: Tensor, parameters: Named) -> dict[str, Tensor | None]:
    found = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return dict(zip(parameters, found, strict=True))


def copied(module: nn.Module) -> Named:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def matching_of(frozen: Named, momentum: float) -> Matching:
    """Measured over all images of both domains, layer by layer."""
    activations = whole(frozen, SOURCE_IMAGES, unmatched)
    moments = {name: channel_moments(value) for name, value in activations.items()}
    matching = Matching(momentum, {n: (mean, var.sqrt()) for n, (mean, var) in moments.items()})
    whole(frozen, TARGET_IMAGES, matching.measure)
    return matching


def assert_equal(module: nn.Module, expected: Named) -> None:
    assert dict(module.named_parameters()).keys() == expected.keys()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("drift", [(0.0, "sum"), (1.0, "sum"), (1.0, "mean")], ids=str)
@pytest.mark.parametrize("momentum", [None, 0.0, 0.3], ids=["plain", "initial", "running"])
@pytest.mark.parametrize("adversary", ["gan", "inverted", "lsgan"])
def test_three_steps_are_those_of_plain_torch(
    adversary: str, momentum: float | None, drift: tuple[float, str]
) -> None:
    """Inverted labels, no matching and the mean are the authors' code; gan and sum are Eq. 3."""
    players = tiny_players(momentum=momentum, outputs=2 if adversary == "inverted" else 1)
    frozen = copied(players.source)
    matching = None if momentum is None else matching_of(frozen, momentum)
    plain = PlainGame(
        frozen=frozen,
        target=copied(players.target),
        judges=copied(players.discriminators),
        match=matching.train if matching else unmatched,
        adversary=adversary,
        drift=drift[0],
        reduction=drift[1],
    )
    general = GeneralMatching(
        players,
        weights=WEIGHTS,
        adversary=adversary,
        drift_weight=drift[0],
        drift_reduction=drift[1],
    )
    for step in range(STEPS):
        images = batch(SOURCE_IMAGES, step), batch(TARGET_IMAGES, step)
        seen, expected = general.step(*images), plain.step(*images)
        assert seen.keys() == expected.keys()
        for name, value in expected.items():
            assert seen[name].item() == pytest.approx(value.item(), abs=1e-7), name
    assert_equal(players.target, plain.target)
    assert_equal(players.discriminators, plain.judges)
    assert_equal(players.source, frozen)
    if matching:
        for name, (mean, std) in matching.target.items():
            kept = players.target.matching[name]
            torch.testing.assert_close(kept.target_mean, mean, rtol=0, atol=1e-12)
            torch.testing.assert_close(kept.target_std, std, rtol=0, atol=1e-12)
    moved = {name for name, p in plain.target.items() if not torch.equal(p, frozen[name])}
    assert moved == plain.target.keys() - {"fc3.weight"}


def test_loss_ratios_are_one_where_a_discriminator_is_undecided() -> None:
    even = {"loss/discriminator/a": 0.25, "loss/adversarial/a": 0.25, "loss/drift": 3.0}
    won = {"loss/discriminator/b": 0.0, "loss/adversarial/b": 2.0}
    assert loss_ratios(even) == {"loss_ratio/a": 1.0}
    assert loss_ratios({**even, **won})["loss_ratio/b"] > 1e6


def test_the_health_meter_gives_means_and_starts_anew() -> None:
    meter = HealthMeter()
    assert meter.take() == {}
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    meter.add({"a": torch.tensor(4.0), "b": torch.tensor(2.0)})
    assert meter.take() == {"a": 2.5, "b": 2.0}
    meter.add({"a": torch.tensor(7.0)})
    assert meter.take() == {"a": 7.0}
    assert meter.take() == {}


def test_a_step_leaves_the_activations_health_without_gradient() -> None:
    players = tiny_players(momentum=0.0)
    general = GeneralMatching(
        players, weights=dict.fromkeys(LAYERS, 1.0), adversary="gan", drift_weight=1.0
    )
    seen = general.step(batch(SOURCE_IMAGES, 0), batch(TARGET_IMAGES, 0))
    assert not any(value.requires_grad for value in seen.values())
    assert all(p.grad is None for p in players.source.parameters())


def test_a_step_can_be_counted() -> None:
    # Counters, and what else hooks onto many gradients, refuse torch.autograd.grad.
    general = GeneralMatching(
        tiny_players(momentum=0.0),
        weights=dict.fromkeys(LAYERS, 1.0),
        adversary="gan",
        drift_weight=1.0,
    )
    with FlopCounterMode(display=False) as counter:
        general.step(batch(SOURCE_IMAGES, 0), batch(TARGET_IMAGES, 0))
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("adversary", ["gan", "inverted", "lsgan"])
def test_a_step_waits_for_nothing_on_its_device(
    adversary: str, momentum: float, batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What reads a number back, as .item() does, fails on a device that has none; on a GPU it would
    # wait, and the step could not be captured. torch has no autocast for such a device.
    monkeypatch.setattr("gam_ray.adaptation.step.in_precision", lambda *_: nullcontext())
    outputs = 2 if adversary == "inverted" else 1
    players = tiny_players(momentum=momentum, outputs=outputs, batch_norm=batch_norm)
    for module in (players.source, players.target, players.discriminators):
        module.to("meta")
    optimizers = {
        f"{name}_optimizer": Adam(module.parameters(), lr=LEARNING_RATE, betas=BETAS)
        for name, module in (
            ("target", players.target),
            ("discriminator", players.discriminators),
        )
    }
    general = GeneralMatching(
        replace(players, **optimizers),
        weights=dict.fromkeys(LAYERS, 1.0),
        adversary=adversary,
        drift_weight=1.0,
    )
    meter = HealthMeter()
    for number in range(2):
        images = (batch(each, number).to("meta") for each in (SOURCE_IMAGES, TARGET_IMAGES))
        meter.add(general.step(*images))
