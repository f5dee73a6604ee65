"""The settings of one trial. A trial *is* this configuration: its key is the hash of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gam_ray.config.base import ConfigModel

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class TaskConfig(ConfigModel):
    """Which network goes from which labelled domain to which unlabelled one."""

    source: str
    """Name of the labelled source domain, such as ``mnist``."""
    target: str
    """Name of the unlabelled target domain, such as ``usps``."""
    network: str = "lenet"
    """Name of the architecture that both networks share."""


class PretrainingConfig(ConfigModel):
    """How the source network is trained on labelled source data; shared by all trials.

    Defaults are those of the paper's digits experiments (Adam 1e-3, batch 128, L2 2.5e-5).
    """

    steps: Count = 10_000
    """Optimizer steps."""
    batch_size: Count = 128
    """Images a step, over all workers."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate."""
    weight_decay: NonNegative = 2.5e-5
    """L2 weight of Adam."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the batches."""


class MomentsConfig(ConfigModel):
    """Where the target moments of Gaussian matching come from while the network adapts."""

    kind: Literal["initial", "running"] = "running"
    """``running``: of each batch while training, as BatchNorm does, with a running average for
    evaluation; ``initial``: measured over the whole target set before adaptation and kept."""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the newest batch in the running average; not used by ``initial``."""


class AdaptationConfig(ConfigModel):
    """General activation matching, Eq. 3 of Huang, Huang and Krähenbühl (ECCV 2018)."""

    kind: Literal["none", "gaussian", "general"] = "general"
    """``none`` keeps the source network, ``gaussian`` only matches moments in closed form,
    ``general`` trains against discriminators."""
    weight: NonNegative = 0.1
    """λ: weight of the adversarial term of every chosen layer."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("fc3", "fc4")
    """Layers whose activations a discriminator tells apart; names are the network's own."""
    adversary: Literal["gan", "lsgan"] = "gan"
    """``gan``: non-saturating; ``lsgan``: least squares."""
    gaussian: bool = True
    """Start from the Gaussian-matched network, and pass matched activations to the
    discriminators."""
    moments: MomentsConfig = MomentsConfig()
    drift: NonNegative = 1.0
    """Weight of ‖θs − θt‖², the squared distance to the source network's parameters."""

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> AdaptationConfig:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers must be distinct, but got {', '.join(self.layers)}")
        return self


class OptimizerConfig(ConfigModel):
    """Adam for both players; they step together, as in the authors' digits code."""

    target_lr: Positive = 2e-4
    """Learning rate of the target network."""
    discriminator_lr: Positive = 2e-4
    """Learning rate of all discriminators."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's decay of the first moment, for both players."""


class TrialConfig(ConfigModel):
    """Everything that determines the outcome of one trial."""

    task: TaskConfig
    pretraining: PretrainingConfig = PretrainingConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: Count = 10_000
    """Adaptation steps."""
    batch_size: Count = 128
    """Source images, and as many target images, a step, over all workers."""
    report_every: Count = 500
    """Steps between two reports; each evaluates the held-out splits and writes a checkpoint."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every generator of the adaptation."""

    def baseline(self, kind: Literal["none", "gaussian"]) -> TrialConfig:
        """The same task without adversaries: ``none`` or ``gaussian``, other settings default."""
        return TrialConfig(
            task=self.task,
            pretraining=self.pretraining,
            adaptation=AdaptationConfig(kind=kind),
            seed=self.seed,
        )
