r"""Scores of pytorch-adapt and skada, recorded for `tests/selection/test_scores_peers.py`.

Each wants an environment of its own. pytorch-adapt (Musgrave, Belongie and Lim 2022):

    python3.11 -m venv peer
    peer/bin/pip install pytorch-adapt==0.0.83 torchmetrics==0.9.3 \
        pytorch-metric-learning==1.6.3 torch==2.9.1 torchvision==0.24.1 "numpy<2" \
        "setuptools<81"
    peer/bin/python benchmarks/peers/record_scores.py pytorch-adapt

skada (the scikit-learn of domain adaptation):

    python3.11 -m venv other
    other/bin/pip install skada==0.6.0
    other/bin/python benchmarks/peers/record_scores.py skada

Not recorded is skada's soft neighbourhood density: version 0.6.0 takes the softmax over all pairs
at once and not row by row, and turns the sign of the diagonal in place of leaving it out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECORD = Path(__file__).with_name("scores.json")
SEED, ROWS, CLASSES, WIDTH = 30, 60, 5, 8
KINDS = ("random", "sharp", "one class", "uniform", "never the third")
MIXVAL_SEED = 7

Array = NDArray[np.float64]


def logits(kind: str) -> Array:
    """[ROWS, CLASSES], float64, the same on both sides."""
    drawn = np.random.Generator(np.random.PCG64(SEED)).standard_normal((ROWS, CLASSES))
    if kind == "one class":
        return np.eye(CLASSES)[np.zeros(ROWS, int)] * 30
    if kind == "never the third":
        drawn[:, 2] = -60
    return drawn * {"random": 1, "sharp": 8, "uniform": 0, "never the third": 2}[kind]


def weights_and_losses() -> tuple[Array, Array]:
    """Importance weights and losses [ROWS]."""
    numbers = np.random.Generator(np.random.PCG64(SEED + 1))
    return 2 * numbers.random(ROWS), 3 * numbers.random(ROWS)


def images_and_head() -> tuple[Array, Array]:
    """Target rows [ROWS, WIDTH] and the weights [WIDTH, CLASSES] of a linear classifier."""
    numbers = np.random.Generator(np.random.PCG64(SEED + 2))
    return numbers.standard_normal((ROWS, WIDTH)), 3 * numbers.standard_normal((WIDTH, CLASSES))


def softmax(values: Array) -> Array:
    """Row by row."""
    raised = np.exp(values - values.max(1, keepdims=True))
    shares: Array = raised / raised.sum(1, keepdims=True)
    return shares


def of_pytorch_adapt() -> dict[str, Any]:
    """Its validators and losses, as they are."""
    import torch
    from pytorch_adapt.layers import BNMLoss
    from pytorch_adapt.validators import EntropyValidator, IMValidator, SNDValidator
    from pytorch_adapt.validators.deep_embedded_validator import get_dev_risk

    found: dict[str, Any] = {}
    for kind in KINDS:
        given = torch.from_numpy(logits(kind))
        domain = {"logits": given, "preds": given.softmax(1)}
        found[kind] = {
            "entropy": float(EntropyValidator()(target_train=domain)),
            "information_maximisation": float(IMValidator()(target_train=domain)),
            "bnm": -float(BNMLoss()(given)),
            "snd": float(SNDValidator(layer="preds")(target_train=domain)),
        }
    weights, losses = (torch.from_numpy(each)[:, None] for each in weights_and_losses())
    found["dev risk"] = float(get_dev_risk(weights.clone(), losses, None))
    return found


def of_skada() -> dict[str, Any]:
    """Its scorers, asked with a fixed linear classifier; domain 1 is the source, -2 the target."""
    from skada.metrics import MixValScorer, PredictionEntropyScorer
    from sklearn.base import BaseEstimator, ClassifierMixin

    rows, head = images_and_head()

    class Linear(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(CLASSES)

        def fit(self, *_: object) -> Linear:
            return self

        def predict_proba(self, given: Array, **_: object) -> Array:
            return softmax(given @ head)

        def predict(self, given: Array, **_: object) -> NDArray[np.int64]:
            return self.predict_proba(given).argmax(1)

        def score(self, given: Array, labels: Array, **_: object) -> float:
            """Accuracy."""
            return float((self.predict(given) == labels).mean())

    both = np.concatenate([rows, rows])
    labels = Linear().predict(both)
    domains = np.repeat([1, -2], ROWS)
    asked = (Linear(), both, labels)
    scorers = {
        "entropy": PredictionEntropyScorer(),
        "mixval": MixValScorer(alpha=0.55, ice_type="both", random_state=MIXVAL_SEED),
    }
    return {name: float(each(*asked, sample_domain=domains)) for name, each in scorers.items()}


if __name__ == "__main__":
    peers = {"pytorch-adapt": of_pytorch_adapt, "skada": of_skada}
    (peer,) = sys.argv[1:]
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[peer] = peers[peer]()
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
