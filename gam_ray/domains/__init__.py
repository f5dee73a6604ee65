"""Data sets by name, as uint8 images in three splits; a target's images come without labels."""

from gam_ray.domains.base import (
    SPLITS,
    VOID,
    DataMissingError,
    Domain,
    LabelledDomain,
    LabelledImages,
    LabelsMissingError,
    Problem,
    Split,
    UnlabelledImages,
    carve_held_out,
    fixed_permutation,
)
from gam_ray.domains.pairs import load_pair
from gam_ray.domains.registry import (
    argument_path,
    domain_names,
    load_domain,
    register_domain,
    resolve_data_root,
)

__all__ = [
    "SPLITS",
    "VOID",
    "DataMissingError",
    "Domain",
    "LabelledDomain",
    "LabelledImages",
    "LabelsMissingError",
    "Problem",
    "Split",
    "UnlabelledImages",
    "argument_path",
    "carve_held_out",
    "domain_names",
    "fixed_permutation",
    "load_domain",
    "load_pair",
    "register_domain",
    "resolve_data_root",
]
