"""A source and a target that go together: one problem, one image shape, one list of classes."""

from pathlib import Path
from typing import Any

from gam_ray.domains.base import Domain, LabelsMissingError
from gam_ray.domains.registry import construct, options_of, resolve_data_root


def load_pair(
    source: str,
    target: str,
    *,
    data_root: Path | None = None,
    size: tuple[int, int] | None = None,
    classes: str | None = None,
) -> tuple[Domain, Domain]:
    """Return a source and a target whose images have one shape and whose classes are the same.

    `size` and `classes` go to the domains that take them. What is not given is found:

    - `size` is the target's own; where only the target takes one, the source's.
    - `classes` is the first of the target's lists (`Domain.class_lists`) that the source has too.

    A target without class names (a folder of images) gets the source's, and so does one that lacks
    some of the source's classes and knows labels by name (`Domain.keeps_class_names`). Where one is
    grey and the other in colour, a folder of images takes the other's channels, and of two the grey
    one is taken as colour.

    Args:
        source: Name of the source, as `load_domain` has it.
        target: Name of the target.
        data_root: Where the data sets are; `resolve_data_root` says what None means.
        size: Height and width of the images of both.
        classes: Name of the class list of both.

    Raises:
        ValueError: A name is unknown, neither domain takes `size` or `classes`, or the two do not
            go together.
        LabelsMissingError: The source is known to have no labels.
    """
    root = resolve_data_root(data_root)
    _check_taken(source, target, {"size": size, "classes": classes})
    goal = _load(target, root, size, classes)
    origin = _load(source, root, size, classes)
    _check_problems(origin, goal)
    if not origin.class_names:
        raise LabelsMissingError(
            f"A source has labelled images, but {source!r} has no labels. Choose another source."
        )
    common = classes or _common_list(origin, goal)
    if size is None:
        size = _common_size(origin, goal)
    origin, goal = _load(source, root, size, common), _load(target, root, size, common)
    if _may_take_classes(goal, origin):
        goal.class_names = origin.class_names
    _agree_on_channels(origin, goal)
    _check_shapes(origin, goal)
    _check_classes(origin, goal)
    return origin, goal


def _load(name: str, root: Path, size: tuple[int, int] | None, classes: str | None) -> Domain:
    """Return a domain with those of the options that it takes."""
    options: dict[str, Any] = {"size": size, "classes": classes}
    taken = options_of(name)
    return construct(name, root, {key: options[key] for key in options if key in taken})


def _may_take_classes(target: Domain, source: Domain) -> bool:
    if not target.class_names:
        return True
    return target.keeps_class_names and set(target.class_names) < set(source.class_names)


def _agree_on_channels(source: Domain, target: Domain) -> None:
    if source.image_shape[0] == target.image_shape[0]:
        return
    fixed = [each.image_shape[0] for each in (source, target) if not each.takes_channels]
    for each in (source, target):
        if each.takes_channels:
            each.channels = fixed[0] if fixed else 3


def _common_size(source: Domain, target: Domain) -> tuple[int, int]:
    """Return the size that both can have: it is the target's, unless the source's is fixed."""
    fixed = source if "size" not in options_of(source.name) else target
    return fixed.image_shape[1:]


def _common_list(source: Domain, target: Domain) -> str | None:
    if not (source.class_lists and target.class_lists):
        return None
    for name, class_names in target.class_lists.items():
        if source.class_lists.get(name) == class_names:
            return name
    raise ValueError(
        "Source and target need a class list that both have, but "
        f"{source.name!r} has {_lists(source)} and {target.name!r} has {_lists(target)}. "
        "Choose another source or target."
    )


def _lists(domain: Domain) -> str:
    return " and ".join(
        f"{name} ({', '.join(classes)})" for name, classes in domain.class_lists.items()
    )


def _check_taken(source: str, target: str, options: dict[str, Any]) -> None:
    taken = options_of(source) | options_of(target)
    faults = [
        f"{key} is {value!r}, but neither {source!r} nor {target!r} takes one. Leave it out."
        for key, value in options.items()
        if value is not None and key not in taken
    ]
    if faults:
        raise ValueError("\n".join(faults))


def _check_problems(source: Domain, target: Domain) -> None:
    if source.problem != target.problem:
        raise ValueError(
            f"Source and target are of one kind, but {source.name!r} is one of {source.problem} "
            f"and {target.name!r} one of {target.problem}. Choose two of the same kind."
        )


def _check_shapes(source: Domain, target: Domain) -> None:
    if source.image_shape != target.image_shape:
        raise ValueError(
            f"Source and target images have one shape, but {source.name!r} has "
            f"{source.image_shape} and {target.name!r} has {target.image_shape}. Choose two that "
            "agree, or a size where one can be given."
        )


def _check_classes(source: Domain, target: Domain) -> None:
    if source.class_names != target.class_names:
        raise ValueError(
            f"Source and target have the same classes in one order, but {source.name!r} has "
            f"{', '.join(source.class_names)} and {target.name!r} has "
            f"{', '.join(target.class_names)}. Choose two that agree."
        )
