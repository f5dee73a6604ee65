"""Hyperparameter studies for unsupervised domain adaptation, chosen without target labels."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gam_ray.study.study import Study
    from gam_ray.training.own_network import Adapted, adapt
    from gam_ray.training.single import Trial

__all__ = ["Adapted", "Study", "Trial", "adapt"]

_HOMES = {
    "Adapted": "gam_ray.training.own_network",
    "Study": "gam_ray.study.study",
    "Trial": "gam_ray.training.single",
    "adapt": "gam_ray.training.own_network",
}


def __getattr__(name: str) -> object:
    """Import a name when it is asked for: what it needs takes seconds to import."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gam_ray' has no attribute {name!r}")
