"""`python -m gam_ray.cli`: the command line where its script is not installed."""

from gam_ray.cli import main

main()
