"""The view of the run table, in the form that MLflow 3.17 reads."""

import json

import mlflow
from tracking_bench import PATIENCE_S, Bench, append

from gam_ray.tracking import MLflowSink, RunsView, StudyStarted, TrialStarted, read_status

VIEW = RunsView("my study", ("final/score", "oracle/test"), ("λ",), ("gam_ray.role",))


def experiment_tags(bench: Bench) -> dict[str, str]:
    client = mlflow.MlflowClient(bench.database_uri)
    return dict(client.get_experiment_by_name("an experiment").tags)


def send(bench: Bench, name: str = "key-1") -> None:
    append(bench, TrialStarted(name, name, {}, {"gam_ray.role": "search"}, 2))
    sink = MLflowSink(
        bench.folder / "queue",
        tracking_uri=bench.database_uri,
        experiment="an experiment",
        study="my study",
        view=VIEW,
    )
    sink.start()
    assert sink.close(PATIENCE_S).waiting == 0


def test_the_view_is_added_once_and_what_users_changed_stays(bench: Bench) -> None:
    append(bench, StudyStarted("my study", {}, {"gam_ray.role": "study"}, 1))
    send(bench)
    view = json.loads(experiment_tags(bench)["mlflow.sharedViewState.gam-ray-my study"])
    assert view["name"] == "my study: trials"
    state = json.loads(view["state"])
    assert state["selectedColumns"] == [
        "metrics.`final/score`", "metrics.`oracle/test`", "params.`λ`", "tags.`gam_ray.role`",
    ]  # fmt: skip
    client = mlflow.MlflowClient(bench.database_uri)
    experiment = client.get_experiment_by_name("an experiment").experiment_id
    found = client.search_runs([experiment], state["searchFilter"])
    assert [run.info.run_name for run in found] == ["key-1"]
    order = f"{state['orderByKey']} DESC"
    assert client.search_runs([experiment], order_by=[order])

    client.set_experiment_tag(experiment, VIEW.key, "changed by hand")
    send(bench, "key-2")
    assert experiment_tags(bench)[VIEW.key] == "changed by hand"
    told = read_status(bench.folder / "queue").experiment_id
    assert told == experiment
    assert VIEW.path(told) == f"/#/experiments/{told}/runs?viewStateShareKey=gam-ray-my%20study"
    assert VIEW.path(None) == ""
