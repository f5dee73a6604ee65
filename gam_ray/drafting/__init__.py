"""From two folders of images to a study file that runs: look, plan, write."""

from gam_ray.drafting.draft import Draft, check_output, default_name, draft_study
from gam_ray.drafting.folders import FolderPair, look_at_folders
from gam_ray.drafting.plan import Machine

__all__ = [
    "Draft",
    "FolderPair",
    "Machine",
    "check_output",
    "default_name",
    "draft_study",
    "look_at_folders",
]
