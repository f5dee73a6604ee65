"""Domains by name."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from gam_ray.domains.base import Domain, did_you_mean

DomainClass = TypeVar("DomainClass", bound=type[Domain])

# Modules, not classes, so that importing this room imports no data set's library.
_BUILTIN = {
    "camvid": "gam_ray.domains.camvid",
    "cityscapes": "gam_ray.domains.cityscapes",
    "gta5": "gam_ray.domains.gta5",
    "handwritten-digits": "gam_ray.domains.handwritten_digits",
    "image-folder": "gam_ray.domains.image_folder",
    "mnist": "gam_ray.domains.torchvision_digits",
    "mnist-even": "gam_ray.domains.label_shift",
    "mnist-odd": "gam_ray.domains.label_shift",
    "rendered-digits": "gam_ray.domains.rendered_digits",
    "segmentation-folder": "gam_ray.domains.segmentation_folder",
    "streets": "gam_ray.domains.streets",
    "svhn": "gam_ray.domains.torchvision_digits",
    "svhn-even": "gam_ray.domains.label_shift",
    "svhn-odd": "gam_ray.domains.label_shift",
    "synthia": "gam_ray.domains.synthia",
    "unlabelled-folder": "gam_ray.domains.image_folder",
    "usps": "gam_ray.domains.torchvision_digits",
    "usps-even": "gam_ray.domains.label_shift",
    "usps-odd": "gam_ray.domains.label_shift",
}
_REGISTERED: dict[str, type[Domain]] = {}

_OPTIONS = ("argument", "size", "classes")
_WHO_TAKES = {
    "argument": "what follows a colon",
    "size": "a size, which is for domains that read image files",
    "classes": "a class list, which is for domains of segmentation",
}


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

    A constructor may take more than `data_root`, by name; see `Domain`.

    Args:
        name: The name a study gives as source or target.

    Returns:
        A decorator that sets the class's `name` and returns the class.

    Raises:
        ValueError: Another class has that name, or it has a colon.
    """
    if ":" in name:
        raise ValueError(
            f"What follows a colon is a domain's argument, but {name!r} has one. Register the name "
            "alone, and take `argument` in the constructor."
        )

    def register(domain: DomainClass) -> DomainClass:
        _check_name_is_free(name, domain)
        domain.name = name
        _REGISTERED[name] = domain
        return domain

    return register


def domain_names() -> tuple[str, ...]:
    """Return every name that `load_domain` knows, sorted."""
    return tuple(sorted({*_BUILTIN, *_REGISTERED}))


def load_domain(
    name: str,
    *,
    data_root: Path | None = None,
    size: tuple[int, int] | None = None,
    classes: str | None = None,
) -> Domain:
    """Return the domain registered as `name`. Its files are read when a split is asked for.

    Args:
        name: One of `domain_names()`; where the domain takes an argument, `name:argument`, as in
            `segmentation-folder:PATH` (see `argument_path`).
        data_root: Where the data sets are; `resolve_data_root` says what None means.
        size: Height and width to which images are resized, for domains that read image files;
            None is the domain's own.
        classes: The name of a class list, such as `cityscapes-19`, for domains that offer several;
            None is the domain's first.

    Raises:
        ValueError: No domain has that name, or it does not take what was given, or needs more.
    """
    given = {"size": size, "classes": classes}
    return construct(name, resolve_data_root(data_root), given)


def options_of(name: str) -> frozenset[str]:
    """Return which of `argument`, `size` and `classes` the domain `name` takes.

    Args:
        name: As `load_domain` has it; an argument after a colon is ignored.

    Raises:
        ValueError: No domain has that name.
    """
    return frozenset(_parameters(_class_of(_split_name(name)[0])))


def construct(name: str, data_root: Path, options: dict[str, Any]) -> Domain:
    """Return the domain `name` with `options`, of which those that are None are left out."""
    plain, argument = _split_name(name)
    domain_class = _class_of(plain)
    options = {"argument": argument or None, **options}
    given = {key: value for key, value in options.items() if value is not None}
    _check_options(plain, _parameters(domain_class), given)
    domain = cast("Callable[..., Domain]", domain_class)(data_root, **given)
    if argument:
        domain.name = name
    return domain


def _split_name(name: str) -> tuple[str, str]:
    plain, _, argument = name.partition(":")
    return plain, argument


def _class_of(plain: str) -> type[Domain]:
    if plain not in domain_names():
        raise ValueError(_unknown_name(plain))
    if plain not in _REGISTERED:
        importlib.import_module(_BUILTIN[plain])
    return _REGISTERED[plain]


def _parameters(domain_class: type[Domain]) -> dict[str, inspect.Parameter]:
    """Return the options that a class's constructor takes: they need not be declared twice."""
    parameters = inspect.signature(domain_class).parameters
    return {key: parameters[key] for key in _OPTIONS if key in parameters}


def _check_options(
    name: str, parameters: dict[str, inspect.Parameter], given: dict[str, Any]
) -> None:
    faults = [
        f"Domain {name!r} does not take {_WHO_TAKES[key]}, but was given {value!r}. Leave it out."
        for key, value in given.items()
        if key not in parameters
    ]
    faults += [
        f"Domain {name!r} needs {_WHO_TAKES[key]}. "
        + (f"Write it as '{name}:PATH'." if key == "argument" else f"Give {key}.")
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in given
    ]
    size = given.get("size")
    if size is not None and not _is_size(size):
        faults.append(f"A size is (height, width), both 1 or more, but this one is {size!r}.")
    if faults:
        raise ValueError("\n".join(faults))


def _is_size(size: Iterable[object]) -> bool:
    sides = tuple(size)
    return len(sides) == 2 and all(isinstance(side, int) and side >= 1 for side in sides)


def resolve_data_root(data_root: Path | None) -> Path:
    """Return the folder of the data sets, as an absolute path.

    It is `data_root`, if given; else the environment variable GAM_RAY_DATA, if set and not empty;
    else `data` in the current folder. `~` is expanded. The folder need not exist.
    """
    chosen = data_root or os.environ.get("GAM_RAY_DATA") or "data"
    # Absolute, because a worker's current folder is not the one the study was started in.
    return Path(chosen).expanduser().absolute()


def argument_path(data_root: Path, argument: str) -> Path:
    """Return the folder that an argument names: `~` is expanded, the rest is in `data_root`."""
    return data_root / Path(argument).expanduser()


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
    return (
        f"No domain is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
        "Register one of your own with @register_domain."
    )
