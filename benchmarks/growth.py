"""What a trial costs beside its training when a study has 10, 100 and 1,000 of them.

    python benchmarks/growth.py --json benchmarks/results/growth.json

Trials are stubs: Optuna proposes, the broker stores and scores two reports with the predictions of
5,000 images, the sink carries everything to MLflow on SQLite; Ray's own calls are not in it. Told
are milliseconds a trial, the mean of the last 50 up to each count (of all of ten), by part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tables import stamp

from gam_ray.config import StudyConfig
from gam_ray.study.broker import Broker
from gam_ray.study.searching import start_search
from gam_ray.study.store import StudyStore
from gam_ray.study.study import tracking_uri
from gam_ray.tracking import MLflowSink, StudyEnded, StudyStarted, TrackingQueue

IMAGES, CLASSES = 5_000, 10
WINDOW = 50
SCORES = ("entropy", "class_ami", "bnm", "snd")
GUARD = {"guard/class_shift": 0.1, "guard/agreement": 0.9, "guard/feature_rank": 0.9}


def main() -> None:
    """Run, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--counts", nargs="+", type=int, default=[10, 100, 1000])
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(grow(study(Path(folder), max(given.counts)), given.counts))
    for count, parts in found.items():
        cells = [f"{part} {ms:.0f} ms" for part, ms in parts.items()]
        print(f"| {count} trials | {' | '.join(cells)} |")
    if given.json:
        content = {**stamp(), "images": IMAGES, "ms_a_trial": found}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


def study(storage: Path, trials: int) -> StudyConfig:
    """A study of so many stubs."""
    return StudyConfig.from_mapping(
        {
            "name": "growth",
            "trial": {"task": {"source": "rendered-digits", "target": "handwritten-digits"}},
            "space": {
                "adaptation.weight": {"log": [0.1, 10]},
                "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
                "optimizer.target_lr": {"log": [1e-5, 1e-2]},
                "optimizer.discriminator_lr": {"log": [1e-5, 1e-2]},
            },
            "search": {"trials": trials},
            "storage": str(storage),
        }
    )


async def grow(config: StudyConfig, counts: list[int]) -> dict[int, dict[str, float]]:
    """Count of trials → part of the work → milliseconds a trial, of the last `WINDOW` ones."""
    search = start_search(config, StudyStore(config.folder)).searcher
    broker, rng = Broker(config, ()), np.random.default_rng(0)
    queue = TrackingQueue(config.folder / "tracking")
    queue.append(StudyStarted(config.name, params={}, tags={}, time_ms=0))
    sink = MLflowSink(
        config.folder / "tracking",
        tracking_uri=tracking_uri(config, config.folder),
        experiment=config.name,
        study=config.name,
    )
    sink.start()
    times: list[dict[str, float]] = []
    truth = rng.integers(CLASSES, size=IMAGES)
    for number in range(max(counts)):
        spent: dict[str, float] = defaultdict(float)
        times.append(spent)
        await one_trial(str(number), search, broker, predictions(truth, rng), spent)
        before = time.perf_counter()
        while number + 1 in counts and sink.status().waiting:
            await asyncio.sleep(0.05)
        if number + 1 in counts:
            spent["sink, left behind"] = time.perf_counter() - before
    queue.append(StudyEnded("FINISHED", 0))
    sink.close(600)
    return {count: means(times[max(0, count - WINDOW) : count]) for count in counts}


async def one_trial(
    name: str,
    search: Any,
    broker: Broker,
    said: list[np.ndarray[Any, Any]],
    spent: dict[str, float],
) -> None:
    """Propose it, plan it, report it, end it; seconds by part."""
    clock = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        spent[part] += now - clock
        clock = now

    proposal = search.suggest(name)
    lap("Optuna")
    key = await broker.submit(proposal["settings"])
    await broker.next_trial("lane-0", 1)
    for number, probabilities in enumerate(said):
        step = 250 * (number + 1) if number + 1 < len(said) else 1000
        metrics = {f"score/{score}": float(-probabilities.std()) for score in SCORES}
        await broker.report("lane-0", key, step, {**metrics, **GUARD}, probabilities)
        event: Any = await broker.next_event(key, number, 1)
        lap("broker")
        result = {"score": event.score, "step": step, "last": event.last}
        search.on_trial_result(name, result)
        lap("Optuna")
    await broker.finish("lane-0", key, step=1000, oracle=None)
    lap("broker")
    search.on_trial_complete(name, result)
    lap("Optuna")


def predictions(
    truth: np.ndarray[Any, Any], rng: np.random.Generator
) -> list[np.ndarray[Any, Any]]:
    """Of two reports: right on some share of the images."""
    found = []
    for _ in range(2):
        wrong = rng.random(IMAGES) < rng.uniform(0.1, 0.6)
        classes = np.where(wrong, rng.integers(CLASSES, size=IMAGES), truth)
        probabilities = np.full((IMAGES, CLASSES), 0.02, dtype=np.float32)
        probabilities[np.arange(IMAGES), classes] = 0.82
        found.append(probabilities)
    return found


def means(times: list[dict[str, float]]) -> dict[str, float]:
    """Part → milliseconds a trial."""
    parts = dict.fromkeys(part for each in times for part in each)
    return {part: 1000 * sum(each[part] for each in times) / len(times) for part in parts}


if __name__ == "__main__":
    main()
