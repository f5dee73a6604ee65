"""What a person sees of a study: one picture, and one page."""

from gam_ray.report.images import data_uri
from gam_ray.report.overview import Overview, TrialCurve, draw_overview
from gam_ray.report.page import render_page

__all__ = ["Overview", "TrialCurve", "data_uri", "draw_overview", "render_page"]
