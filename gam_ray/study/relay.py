"""Tune's side of a trial: it hands the proposal to the broker and passes on what it hears.

Kept light: a relay imports neither torch nor anything of the training, nor what a study file is.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

# Seconds of one wait for an event; the relay then asks again.
WAIT_S = 10.0
# No CPU, which the lanes hold; memory keeps the number of relays sane.
RELAY_MEMORY = 200 * 2**20


class Relay(tune.Trainable):
    """A Tune trainable whose steps are the reports of a trial that runs in a lane."""

    def setup(self, config: dict[str, Any]) -> None:
        """Submit the proposal."""
        self._broker = config["broker"]
        self._seen = 0
        self._key: str = ray.get(self._broker.submit.remote(config["settings"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next proposal in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the trial's next report, or for its end: a failed one has no finite score.

        A relay that died is started again by Tune and hears everything from the start.
        """
        while True:
            event = ray.get(self._broker.next_event.remote(self._key, self._seen, WAIT_S))
            if event is None:
                continue
            self._seen += 1
            return {
                "key": self._key,
                "step": event.step,
                "score": event.score,
                # Not at its last report: its lane has yet to end it, on the storage.
                "done": event.kind != "report",
            }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: the trial keeps its own checkpoint, and the broker its events."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Memory and no CPU, for a relay only waits; on the node that has the study's folder."""
        from gam_ray.study.plan import NODE_SHARE  # asked by the study, not by a relay

        node = config.get("only_node")
        where = {node: NODE_SHARE} if node else {}
        return PlacementGroupFactory([{"memory": RELAY_MEMORY, **where}])
