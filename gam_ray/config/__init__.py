"""Everything a user may write, as frozen and typed models."""

from gam_ray.config.base import ConfigModel
from gam_ray.config.loading import ConfigError, Problem, load_study_config, load_trial_config
from gam_ray.config.seeds import derive_seed
from gam_ray.config.space import (
    ChoiceParameter,
    RangeParameter,
    SearchSpace,
    SubsetParameter,
    apply_settings,
    unknown_name,
)
from gam_ray.config.study import (
    BudgetConfig,
    ObjectiveConfig,
    ResourcesConfig,
    ScheduleConfig,
    SearchConfig,
    StudyConfig,
    TrackingConfig,
)
from gam_ray.config.trial import (
    AdaptationConfig,
    AugmentationConfig,
    DistillationConfig,
    FineTuningConfig,
    MomentsConfig,
    OptimizerConfig,
    PretrainingConfig,
    StudentConfig,
    TaskConfig,
    TrialConfig,
)

__all__ = [
    "AdaptationConfig",
    "AugmentationConfig",
    "BudgetConfig",
    "ChoiceParameter",
    "ConfigError",
    "ConfigModel",
    "DistillationConfig",
    "FineTuningConfig",
    "MomentsConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PretrainingConfig",
    "Problem",
    "RangeParameter",
    "ResourcesConfig",
    "ScheduleConfig",
    "SearchConfig",
    "SearchSpace",
    "StudentConfig",
    "StudyConfig",
    "SubsetParameter",
    "TaskConfig",
    "TrackingConfig",
    "TrialConfig",
    "apply_settings",
    "derive_seed",
    "load_study_config",
    "load_trial_config",
    "unknown_name",
]
