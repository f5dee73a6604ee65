"""Data sets by name, as uint8 images in three splits; a target's images come without labels."""

from gam_ray.domains.base import (
    SPLITS,
    DataMissingError,
    Domain,
    LabelledDomain,
    LabelledImages,
    LabelsMissingError,
    Split,
    UnlabelledImages,
    carve_held_out,
    fixed_permutation,
)
from gam_ray.domains.registry import (
    domain_names,
    load_domain,
    register_domain,
    resolve_data_root,
)

__all__ = [
    "SPLITS",
    "DataMissingError",
    "Domain",
    "LabelledDomain",
    "LabelledImages",
    "LabelsMissingError",
    "Split",
    "UnlabelledImages",
    "carve_held_out",
    "domain_names",
    "fixed_permutation",
    "load_domain",
    "register_domain",
    "resolve_data_root",
]
