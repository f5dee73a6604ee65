"""A view of MLflow's run table, which opens without any figure or setting otherwise.

Kept as MLflow 3.17 keeps the views that people save there: a tag of the experiment, named in the
menu "Views". A version that reads it otherwise shows its own table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

_PREFIX = "mlflow.sharedViewState."


@dataclass(frozen=True)
class RunsView:
    """The trials of a study with the columns that tell most, the best first.

    Attributes:
        study: Whose trials.
        metrics: Names of those to show, in order; the first one sorts, the largest first.
        params: Names of those to show.
        tags: Names of those to show.
    """

    study: str
    metrics: tuple[str, ...]
    params: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Of the experiment's tag."""
        return f"{_PREFIX}{self.id}"

    @property
    def id(self) -> str:
        """By which the table's address asks for it."""
        return f"gam-ray-{self.study}"

    def path(self, experiment_id: str | None) -> str:
        """What follows the server in the table's address; empty while the experiment is unknown."""
        if experiment_id is None:
            return ""
        return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={quote(self.id)}"

    def value(self, now_ms: int) -> str:
        """Of the experiment's tag.

        Args:
            now_ms: When the view is made, in milliseconds since the epoch.
        """
        columns = [f"metrics.`{name}`" for name in self.metrics]
        columns += [f"params.`{name}`" for name in self.params]
        columns += [f"tags.`{name}`" for name in self.tags]
        state = {
            # Without the study's own run the trials are no children, which would be folded away.
            "searchFilter": f"tags.`gam_ray.study` = '{self.study}' AND "
            "tags.`gam_ray.role` != 'study'",
            "orderByKey": columns[0],
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "selectedColumns": columns,
            "columnOrder": [],
            "runsHiddenMode": "FIRST_20_RUNS",
        }
        return json.dumps(
            {
                "name": f"{self.study}: trials",
                "createdAt": now_ms,
                "updatedAt": now_ms,
                "state": json.dumps(state),
            }
        )
