"""Versions of gam_ray and of what a study stands on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

# What all nodes of a cluster must agree on.
PACKAGES = ("ray", "torch", "torchvision", "optuna", "mlflow", "numpy", "pydantic")


def installed_version(package: str = "gam-ray") -> str:
    """The installed version; ``none`` where a package is missing.

    gam_ray's own is ``none`` where its code came along with a job.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def all_versions() -> dict[str, str]:
    """Versions of Python, gam_ray and its packages, without importing them."""
    packages = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "gam-ray": installed_version(), **packages}
