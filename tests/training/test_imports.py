"""What a worker does not import: each costs it seconds before its first step."""

import subprocess
import sys
from pathlib import Path

TRIAL = """
import sys
from pathlib import Path
from tiny_task import BASE, Recorder, place
from gam_ray.training.trial import run_trial

run_trial(BASE, place(Path(sys.argv[1])), Recorder())
print(*(name for name in ("torch._dynamo", "sympy", "ray", "mlflow") if name in sys.modules))
"""


def test_a_trial_imports_no_compiler(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
