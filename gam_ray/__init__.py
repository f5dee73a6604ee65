"""Hyperparameter studies for unsupervised domain adaptation, chosen without target labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gam_ray.study.study import Study

__all__ = ["Study"]


def __getattr__(name: str) -> object:
    """Import `Study` when it is asked for: what it needs takes seconds to import."""
    if name == "Study":
        from gam_ray.study.study import Study

        return Study
    raise AttributeError(f"module 'gam_ray' has no attribute {name!r}")
