"""What a person sees of a study: one picture, and one page."""

from gam_ray.report.overview import Overview, TrialCurve, draw_overview

__all__ = ["Overview", "TrialCurve", "draw_overview"]
