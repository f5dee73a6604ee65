"""Domains by name."""

import difflib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gam_ray.domains.base import Domain

DomainClass = TypeVar("DomainClass", bound=type[Domain])

# Modules, not classes, so that importing this room imports no data set's library.
_BUILTIN = {
    "handwritten-digits": "gam_ray.domains.handwritten_digits",
    "mnist": "gam_ray.domains.torchvision_digits",
    "rendered-digits": "gam_ray.domains.rendered_digits",
    "usps": "gam_ray.domains.torchvision_digits",
}
_REGISTERED: dict[str, type[Domain]] = {}


def register_domain(name: str) -> Callable[[DomainClass], DomainClass]:
    """Make a `Domain` class available to `load_domain` under `name`.

    Example:
        ::

            @register_domain("my_digits")
            class MyDigits(LabelledDomain):
                class_names = tuple("0123456789")
                image_shape = (1, 28, 28)

                def _load(self, split):
                    images, labels = read_my_files(self.data_root / "my_digits", split)
                    return {split: LabelledImages(images, labels)}

    Args:
        name: The name a study gives as source or target.

    Returns:
        A decorator that sets the class's `name` and returns the class.

    Raises:
        ValueError: Another class has that name.
    """

    def register(domain: DomainClass) -> DomainClass:
        _check_name_is_free(name, domain)
        domain.name = name
        _REGISTERED[name] = domain
        return domain

    return register


def domain_names() -> tuple[str, ...]:
    """Return every name that `load_domain` knows, sorted."""
    return tuple(sorted({*_BUILTIN, *_REGISTERED}))


def load_domain(name: str, *, data_root: Path | None = None) -> Domain:
    """Return the domain registered as `name`. Its files are read when a split is asked for.

    Args:
        name: One of `domain_names()`.
        data_root: Where the data sets are; `resolve_data_root` says what None means.

    Raises:
        ValueError: No domain has that name.
    """
    if name not in domain_names():
        raise ValueError(_unknown_name(name))
    if name not in _REGISTERED:
        importlib.import_module(_BUILTIN[name])
    return _REGISTERED[name](resolve_data_root(data_root))


def resolve_data_root(data_root: Path | None) -> Path:
    """Return the folder of the data sets, as an absolute path.

    It is `data_root`, if given; else the environment variable GAM_RAY_DATA, if set and not empty;
    else `data` in the current folder. `~` is expanded. The folder need not exist.
    """
    chosen = data_root or os.environ.get("GAM_RAY_DATA") or "data"
    # Absolute, because a worker's current folder is not the one the study was started in.
    return Path(chosen).expanduser().absolute()


def _check_name_is_free(name: str, domain: type[Domain]) -> None:
    holder = _holder(name)
    # The same class may come again: a notebook's cell run twice, or a reloaded module.
    if holder not in {None, domain.__module__, _import_path(domain)}:
        raise ValueError(
            f"A domain's name is its own, but {name!r} belongs to {holder}. Register "
            f"{_import_path(domain)} under another name."
        )


def _holder(name: str) -> str | None:
    """Return the class that has `name`, or the module whose import will register it."""
    if name in _REGISTERED:
        return _import_path(_REGISTERED[name])
    return _BUILTIN.get(name)


def _import_path(domain: type[Domain]) -> str:
    return f"{domain.__module__}:{domain.__qualname__}"


def _unknown_name(name: str) -> str:
    known = domain_names()
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"No domain is called {name!r}.{hint} Known: {', '.join(known)}. "
        "Register one of your own with @register_domain."
    )
