"""Draw the figures of docs/method.md: what Gaussian and general matching do to activations.

    python docs/figures.py

trains LeNet on digits drawn from fonts and adapts it to handwriting, on one CPU core in a minute
or two, and writes ``docs/method.png``. It prints what the page says in figures. Test labels are
looked at to print accuracies, and decide nothing.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor, nn
from torch.nn import functional

from gam_ray import adapt
from gam_ray.config import AdaptationConfig, OptimizerConfig, TaskConfig
from gam_ray.networks import build_network
from gam_ray.training.data import load_target_labels, load_task, to_float

TASK = TaskConfig(source="rendered-digits", target="handwritten-digits")
LAYER, CHANNEL_LAYER = "fc3", "conv2"
COLOURS = {"source": "#0072b2", "target": "#d55e00"}  # Okabe and Ito's, told apart by everybody
SEED = 0


def main() -> None:
    """Train, adapt twice, draw."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    data = load_task(TASK, None)
    source, labels = to_float(data.source_train.images), data.source_train.labels
    target = to_float(data.target_train.images)
    network = trained(source, labels)
    optimizer = OptimizerConfig(target_lr=5e-4, discriminator_lr=3e-4)
    general = AdaptationConfig(weight=100, layers=("fc4",))
    networks = {"no adaptation": network}
    for title, adaptation in (
        ("Gaussian matching", AdaptationConfig(kind="gaussian")),
        ("general matching", general),
    ):
        found = adapt(
            network, (source, labels), target, adaptation=adaptation, optimizer=optimizer,
            steps=300, report_every=100, seed=SEED,
        )  # fmt: skip
        networks[title] = found.network
    draw(networks, network, to_float(data.source_held_out.images), to_float(held_out()))


def trained(images: Tensor, labels: Tensor) -> nn.Module:
    """LeNet after 300 steps on the source."""
    network = build_network("lenet", in_channels=1, classes=10)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=2.5e-5)
    for _ in range(300):
        batch = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network.eval()


def held_out() -> Tensor:
    """Images of the target that no network was trained on."""
    return load_task(TASK, None).target_held_out.images


@torch.no_grad()
def activations(network: nn.Module, layer: str, images: Tensor) -> np.ndarray:
    """What a layer gives for images, [N, …]; behind its matching, where there is one."""
    kept: list[Tensor] = []
    module = dict(network.named_modules())[layer]
    # Hooks run in order, so this one sees what the matching has made of it.
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    network(images)
    handle.remove()
    return kept[0].numpy()


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """On the target's test split: the oracle's."""
    labels = load_target_labels(TASK, None)["test"]
    said = network(to_float(labels.images)).argmax(1)
    return float((said == labels.labels).float().mean())


def told_apart(source: np.ndarray, target: np.ndarray) -> float:
    """Accuracy of a linear classifier that tells two domains apart, cross-validated, balanced."""
    rows = np.concatenate([source, target])
    domains = np.repeat([0, 1], [len(source), len(target)])
    classifier = LogisticRegression(max_iter=2000, class_weight="balanced")
    return float(cross_val_score(classifier, rows, domains, scoring="balanced_accuracy").mean())


def draw(
    networks: dict[str, nn.Module], source: nn.Module, images: Tensor, targets: Tensor
) -> None:
    """One column a network: a channel's histogram above, the features below."""
    figure, axes = plt.subplots(2, len(networks), figsize=(10.5, 6.2), layout="constrained")
    maps = activations(source, CHANNEL_LAYER, images).mean((2, 3))
    unmatched = activations(source, CHANNEL_LAYER, targets).mean((2, 3))
    shift = np.abs(maps.mean(0) - unmatched.mean(0)) / (maps.std(0) + 1e-6)
    channel = int(np.where(maps.std(0) > np.median(maps.std(0)), shift, 0).argmax())
    features = activations(source, LAYER, images)
    plane = PCA(2, random_state=SEED).fit(features)
    for column, (title, network) in enumerate(networks.items()):
        others = activations(network, LAYER, targets)
        apart, right = told_apart(features, others), accuracy(network)
        print(f"{title}: domains told apart {apart:.3f}, test accuracy {right:.3f}")
        changed = activations(network, CHANNEL_LAYER, targets).mean((2, 3))
        histogram(axes[0, column], maps[:, channel], changed[:, channel])
        axes[0, column].set_title(title, fontsize=12)
        scatter(axes[1, column], plane.transform(features), plane.transform(others))
        axes[1, column].set_xlabel(
            f"domains told apart: {apart:.0%}\naccuracy on the target (oracle): {right:.0%}"
        )
    axes[0, 0].set_ylabel(f"channel {channel} of {CHANNEL_LAYER}")
    axes[1, 0].set_ylabel(f"{LAYER}, two principal components")
    axes[0, 0].legend(frameon=False)
    figure.savefig(Path(__file__).with_name("method.png"), dpi=110)


def histogram(axis: Axes, source: np.ndarray, target: np.ndarray) -> None:
    """Shares of images by a channel's mean activation."""
    edges = np.linspace(0, max(np.quantile(source, 0.995), np.quantile(target, 0.995)), 40)
    for name, values, style in (("source", source, "-"), ("target", target, "--")):
        axis.hist(
            values, edges, density=True, histtype="step", linewidth=1.6, linestyle=style,
            color=COLOURS[name], label=name,
        )  # fmt: skip
    axis.set_yticks([])


def scatter(axis: Axes, source: np.ndarray, target: np.ndarray) -> None:
    """Images of both domains on one plane."""
    axis.scatter(*source[:400].T, s=9, color=COLOURS["source"], alpha=0.5, linewidths=0)
    axis.scatter(*target.T, s=12, color=COLOURS["target"], alpha=0.7, linewidths=0.8, marker="x")
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()
