"""What trials report, for tests that need no training."""

import numpy as np
from numpy.typing import NDArray

METRICS = {
    "score/entropy": -0.5,
    "score/information_maximisation": 1.0,
    "score/class_ami": 0.5,
    "loss/target": 0.1,
}


def votes(*classes: int) -> NDArray[np.float32]:
    """Sure predictions of these classes, of three."""
    return np.eye(3, dtype=np.float32)[list(classes)]
