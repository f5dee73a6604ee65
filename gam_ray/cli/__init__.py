"""The command line: one short function a command, in one module a group.

Exit codes: 0 done; 1 failed; 2 the input is not right; 3 stopped, and can be resumed;
130 interrupted.
"""

from __future__ import annotations

from gam_ray.cli.app import app, main

__all__ = ["app", "main"]
