"""Everything a user may write, as frozen and typed models."""

from gam_ray.config.base import ConfigModel
from gam_ray.config.changes import filled_up, refused_changes, settings_difference
from gam_ray.config.loading import ConfigError, Problem, load_study_config, load_trial_config
from gam_ray.config.searching import search_problems
from gam_ray.config.seeds import derive_seed
from gam_ray.config.space import (
    ChoiceParameter,
    RangeParameter,
    SearchSpace,
    SubsetParameter,
    apply_settings,
    explorable,
    unknown_name,
    value_at,
)
from gam_ray.config.study import (
    BoundsConfig,
    BudgetConfig,
    Constraints,
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
    "BoundsConfig",
    "BudgetConfig",
    "ChoiceParameter",
    "ConfigError",
    "ConfigModel",
    "Constraints",
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
    "explorable",
    "filled_up",
    "load_study_config",
    "load_trial_config",
    "refused_changes",
    "search_problems",
    "settings_difference",
    "unknown_name",
    "value_at",
]
