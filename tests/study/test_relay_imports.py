"""What a relay's process does not import: it would cost a core seconds in every lane."""

import subprocess
import sys

RELAY = """
import sys
import gam_ray.study.relay

heavy = ("torch", "mlflow", "optuna", "gam_ray.config", "gam_ray.training")
print(*(name for name in heavy if name in sys.modules))
"""


def test_a_relay_imports_nothing_of_the_training_and_no_study_file() -> None:
    command = [sys.executable, "-c", RELAY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
