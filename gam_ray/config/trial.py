"""The settings of one trial. A trial *is* this configuration: its key is the hash of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gam_ray.config.base import ConfigModel, canonical_text

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
    size: tuple[Count, Count] | None = None
    """Height and width to which image files are resized; by default the target's own. Digits
    have one size and take none."""
    classes: str | None = None
    """Name of a class list such as ``camvid-11``, where a domain offers several; by default the
    first of the target's that the source knows too."""


class AugmentationConfig(ConfigModel):
    """Random changes of training images, drawn for each image from the trial's seeds.

    On a GPU they are done there, for whole batches, with draws of their own: the same seed gives
    other changes than on a CPU. Colours change in a fixed order there, in any order on a CPU.
    """

    flip: bool = False
    """Mirror half of the images left to right; not for digits."""
    crop: tuple[Count, Count] | None = None
    """Height and width of a random crop; by default whole images."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle of a random rotation, in degrees."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest random shift, as a fraction of height and of width."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Images are scaled by a random factor from 1 − zoom to 1 + zoom."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Brightness, contrast and saturation are changed by random factors from 1 − colour to
    1 + colour, and the hue by up to a tenth of it, of a turn."""


class PretrainingConfig(ConfigModel):
    """How the source network is trained on labelled source data; shared by all trials.

    Defaults are those of the paper's digits experiments (Adam 1e-3, batch 128, L2 2.5e-5).
    """

    weights: Literal["random", "imagenet"] = "random"
    """Where training starts; ``imagenet`` downloads torchvision's weights, for networks that
    have some."""
    steps: Count = 10_000
    """Optimizer steps."""
    batch_size: Count = 128
    """Images a step, over all workers."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate."""
    weight_decay: NonNegative = 2.5e-5
    """L2 weight of Adam."""
    schedule: Literal["constant", "poly"] = "constant"
    """Learning rate by step; ``poly``: times (1 − step/steps)^0.9, as segmentation has it."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Of the source images while the source network is trained."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the batches."""


class MomentsConfig(ConfigModel):
    """Where the target moments of Gaussian matching come from while the network adapts."""

    kind: Literal["initial", "running"] = "running"
    """``running``: of each batch while training, as BatchNorm does, with a running average for
    evaluation; ``initial``: measured over the whole target set before adaptation and kept."""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the newest batch in the running average; not used by ``initial``."""


# Starting points of `adaptation`, as files name them by `form`. `release` is the authors' digits
# code, whose Adam is OptimizerConfig's default.
FORMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "release": {
        "layers": ["fc3", "fc4"],
        "weight": 1.0,
        "layer_weights": {"fc3": 0.1},
        "adversary": "inverted",
        "gaussian": False,
        "drift": 1.0,
        "drift_reduction": "mean",
    },
}


class AdaptationConfig(ConfigModel):
    """General activation matching, Eq. 3 of Huang, Huang and Krähenbühl (ECCV 2018).

    The defaults are the equation as it is written. In a file, ``form: release`` sets what the
    authors' digits code has in its place (0.1·J(fc3) + 1·J(fc4) + Σ over tensors of the mean of
    (θs − θt)², no Gaussian matching, inverted labels), and what is written beside it wins.
    """

    kind: Literal["none", "gaussian", "general"] = "general"
    """``none`` keeps the source network, ``gaussian`` only matches moments in closed form,
    ``general`` trains against discriminators."""
    weight: NonNegative = 0.1
    """λ: weight of the adversarial term of every chosen layer."""
    layer_weights: dict[str, NonNegative] = Field(default_factory=dict)
    """λ of single layers, by name, in place of `weight`; layers that are not chosen are
    ignored, so that the layers can be searched as well."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("fc3", "fc4")
    """Layers whose activations a discriminator tells apart; names are the network's own."""
    adversary: Literal["gan", "inverted", "lsgan"] = "gan"
    """``gan``: non-saturating, one output; ``inverted``: the same objective as the authors' code
    has it, two outputs and cross-entropy with inverted labels; ``lsgan``: least squares."""
    gaussian: bool = True
    """Start from the Gaussian-matched network, and pass matched activations to the
    discriminators. Without it, BatchNorm keeps the source's statistics."""
    moments: MomentsConfig = MomentsConfig()
    drift: NonNegative = 1.0
    """Weight of ‖θs − θt‖², the squared distance to the source network's parameters."""
    drift_reduction: Literal["sum", "mean"] = "sum"
    """``sum`` over all parameters (Eq. 3), or the sum over tensors of each one's ``mean``."""

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> AdaptationConfig:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers must be distinct, but got {', '.join(self.layers)}")
        return self

    def weight_of(self, layer: str) -> float:
        """λ of one layer."""
        return self.layer_weights.get(layer, self.weight)


class FineTuningConfig(ConfigModel):
    """Supervised training on a few labelled target images, after adaptation (Figure 6).

    The one place where target labels train anything, and only if asked for: those of the first
    `images` of the target's training split, in an order drawn from the trial's seed.
    """

    images: Count
    """Labelled target images; the paper has 1, 10, 25 and 35."""
    steps: Count = 200
    """Optimizer steps."""
    batch_size: Count = 16
    """Images a step, over all workers."""
    learning_rate: Positive = 1e-4
    """Adam's learning rate."""


class DistillationConfig(ConfigModel):
    """How a student learns what a crowd of adapted networks says of target images; no label."""

    steps: Count = 500
    """Optimizer steps."""
    batch_size: Count | None = None
    """Images a step, over all workers; by default as many as a trial takes."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate."""
    augmentation: AugmentationConfig = AugmentationConfig(shift=0.07)
    """Of the images that the student sees; its teachers see them unchanged."""


class StudentConfig(DistillationConfig):
    """A trial that is a student, in place of adaptation: a study writes it, no user has to."""

    teachers: Annotated[tuple[str, ...], Field(min_length=1)]
    """Keys of finished trials of the same task; the student starts as a copy of the first."""


class OptimizerConfig(ConfigModel):
    """Adam for both players; they step together, as in the authors' digits code."""

    target_lr: Positive = 2e-4
    """Learning rate of the target network."""
    discriminator_lr: Positive = 2e-4
    """Learning rate of all discriminators."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's decay of the first moment, for both players."""


# Settings of a trial that came later than its keys.
_NEWER = ("precision", "compiled", "continues")


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
    augmentation: AugmentationConfig = AugmentationConfig()
    """Of the images of both domains while the network adapts."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which numbers adaptation steps pass through the networks; weights, losses and optimizers
    stay in float32. On a GPU float32 multiplies in TF32, and ``bfloat16`` is worth it for
    segmentation; on CPUs it is slower."""
    compiled: bool = False
    """Whether torch.compile makes the networks' kernels for these steps on a GPU: half a minute at
    the start of a trial, and of segmentation networks' steps more than a third. It needs a C
    compiler."""
    fine_tuning: FineTuningConfig | None = None
    """A last stage on a few labelled target images; by default there is none."""
    continues: str | None = None
    """Key of the trial of the same study whose networks it goes on from, to step `steps`: a study
    with population-based training writes it, no user has to."""
    student: StudentConfig | None = None
    """What the trial is trained on if it is a consensus student; it needs `adaptation.kind` none,
    since its teachers have been adapted."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every generator of the adaptation."""

    def canonical(self) -> str:
        """As of every model, but without newer settings at their defaults.

        Trials of studies from before these settings keep their keys.
        """
        content = self.to_mapping()
        for name in _NEWER:
            if content[name] == type(self).model_fields[name].default:
                del content[name]
        return canonical_text(content)

    @property
    def adaptation_steps(self) -> int:
        """Steps of general matching: none for the other kinds."""
        return self.steps if self.adaptation.kind == "general" else 0

    @property
    def last_step(self) -> int:
        """Step of the last report: of adaptation and of the stages after it, counted together."""
        after = (self.student, self.fine_tuning)
        return self.adaptation_steps + sum(stage.steps for stage in after if stage)

    @model_validator(mode="after")
    def _student_is_not_adapted(self) -> TrialConfig:
        if self.student and (self.adaptation.kind != "none" or self.fine_tuning):
            raise ValueError(
                "a student needs adaptation.kind none and no fine_tuning, but got "
                f"{self.adaptation.kind} and fine_tuning={self.fine_tuning}"
            )
        return self

    def baseline(self, kind: Literal["none", "gaussian"]) -> TrialConfig:
        """The same task without adversaries: ``none`` or ``gaussian``, other settings default."""
        return TrialConfig(
            task=self.task,
            pretraining=self.pretraining,
            adaptation=AdaptationConfig(kind=kind),
            fine_tuning=self.fine_tuning,
            seed=self.seed,
        )
