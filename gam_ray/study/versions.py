"""Versions of gam_ray and of what a study stands on."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


@cache
def code_commit() -> str | None:
    """The commit of the repository that gam_ray's code stands in, with ``+changes`` if it has any.

    None where the code was installed without its repository, or git is missing. Asked once: what
    a process has imported does not change with the repository.
    """
    git, folder = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (folder / ".git").exists():  # another's repository may hold a .venv
        return None
    commit, changes = (
        subprocess.run(  # noqa: S603 - fixed arguments
            [git, "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
