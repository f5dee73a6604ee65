"""The broker, called directly."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from study_records import METRICS, votes

from gam_ray.config import StudyConfig, TrialConfig
from gam_ray.study.broker import MAX_ATTEMPTS, UNTRUSTED_SCORE, Broker
from gam_ray.study.store import StudyStore, TrialFiles
from gam_ray.tracking import MetricsReported, TagsSet, TrackingQueue, TrialEnded, TrialStarted
from gam_ray.training.reports import Verdict

MakeConfig = Callable[..., StudyConfig]
WEIGHT = "adaptation.weight"


def run(scenario: Any) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 30))


async def report(
    broker: Broker, key: str, step: int, *classes: int, lane: str = "lane-0", **metrics: float
) -> Verdict:
    return await broker.report(lane, key, step, {**METRICS, **metrics}, votes(*classes))


def test_lanes_take_trials_in_the_order_of_submission(make_config: MakeConfig) -> None:
    async def scenario() -> list[str]:
        broker = Broker(make_config(), ())
        keys = [await broker.submit({WEIGHT: weight}) for weight in (1.0, 2.0)]
        first = await broker.next_trial("lane-0", 1)
        second = await broker.next_trial("lane-1", 1)
        assert first.config.adaptation.weight == 1.0
        assert second.config.adaptation.weight == 2.0
        assert [first.key, second.key] == keys
        return await broker.next_trial("lane-2", 0.01)

    assert run(scenario()) is None


def test_equal_settings_are_one_trial(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        broker = Broker(make_config(), ())
        keys = {await broker.submit({WEIGHT: 1.0}) for _ in range(3)}
        assert len(keys) == 1
        assert await broker.next_trial("lane-0", 1)
        assert await broker.next_trial("lane-1", 0.01) is None

    run(scenario())


def test_a_report_is_on_storage_and_queued_before_the_answer(make_config: MakeConfig) -> None:
    config = make_config()

    async def scenario() -> str:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        assert await report(broker, key, 10, 0, 1, 2) == Verdict(go_on=True, keep=True)
        return key

    key = run(scenario())
    folder = config.folder / "trials" / key
    (line,) = (folder / "reports.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 10
    np.testing.assert_array_equal(np.load(folder / "predictions.npy"), votes(0, 1, 2))
    events = [event for _, event in TrackingQueue(config.folder / "tracking").read(0)]
    assert [type(event) for event in events] == [TrialStarted, MetricsReported]


def test_the_broker_queues_what_the_studys_process_has_to_tell(make_config: MakeConfig) -> None:
    config, event = make_config(), TagsSet("a-trial", {"gam_ray.chosen": "yes"})
    run(Broker(config, ()).track([event]))
    assert [said for _, said in TrackingQueue(config.folder / "tracking").read(0)] == [event]


def test_ensv_is_the_agreement_with_the_trials_so_far(make_config: MakeConfig) -> None:
    async def scenario() -> list[float]:
        broker = Broker(make_config(), ())
        scores = []
        for weight, classes in ((1.0, (0, 0, 0)), (2.0, (0, 0, 1)), (3.0, (0, 2, 1))):
            key = await broker.submit({WEIGHT: weight})
            await broker.next_trial("lane-0", 1)
            await report(broker, key, 40, *classes)
            event = await broker.next_event(key, 0, 1)
            await broker.finish("lane-0", key, step=40, oracle=None)
            scores.append(event.score)
        return scores

    # Alone; two that differ on one image, where ties go to the lower class; a consensus 0, 0, 1.
    assert run(scenario()) == pytest.approx([1, 2 / 3, 2 / 3])


COLLAPSED = {"guard/class_shift": 0.9, "guard/agreement": 0.0, "guard/feature_rank": 1.0}


def test_what_the_guard_distrusts_scores_below_all_others_and_has_no_vote(
    make_config: MakeConfig,
) -> None:
    config = make_config()

    async def life(broker: Broker) -> tuple[list[float], dict[str, Any]]:
        heard = []
        for weight, classes, metrics in (
            (1.0, (0, 1, 2), {}),
            (2.0, (0, 0, 0), COLLAPSED),
            (3.0, (0, 0, 0), COLLAPSED),
            (4.0, (0, 1, 2), {}),
        ):
            key = await broker.submit({WEIGHT: weight})
            await broker.next_trial("lane-0", 0.01)
            await report(broker, key, 40, *classes, **metrics)
            heard.append((await broker.next_event(key, 0, 1)).score)
            await broker.finish("lane-0", key, step=40, oracle=None)
        return heard, await broker.snapshot()

    for _ in range(2):  # the second time from what is on storage
        heard, snapshot = run(life(Broker(config, ())))
        assert heard == [1.0, UNTRUSTED_SCORE, UNTRUSTED_SCORE, 1.0]
        assert snapshot["best"]["score"] == 1.0
    tags = [
        event.tags["gam_ray.guard"]
        for _, event in TrackingQueue(config.folder / "tracking").read(0)
        if isinstance(event, TagsSet)
    ]
    assert [tag[:20] for tag in tags] == ["ok", *["predicted classes ar"] * 2, "ok"]
    assert "; agreement with the source network is 0.00" in tags[1]


def test_the_source_network_as_it_is_may_always_be_chosen(make_config: MakeConfig) -> None:
    async def scenario() -> float:
        broker = Broker(make_config(objective={"score": "ensv", "label_shift": 0.1}), ())
        key = await broker.submit({"adaptation.kind": "none"}, "no adaptation")
        await broker.next_trial("lane-0", 1)
        await report(broker, key, 0, 0, 0, 0, **COLLAPSED)
        return (await broker.next_event(key, 0, 1)).score

    assert run(scenario()) == 1.0


def test_a_known_step_is_not_counted_twice(make_config: MakeConfig) -> None:
    config = make_config()

    async def scenario() -> str:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        for _ in range(2):
            assert await report(broker, key, 10, 0, 1, 2) == Verdict(go_on=True, keep=True)
        return key

    key = run(scenario())
    lines = (config.folder / "trials" / key / "reports.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_at_a_rung_a_report_waits_for_the_decision(make_config: MakeConfig) -> None:
    async def scenario(go_on: bool) -> bool:
        broker = Broker(make_config(), (10,))
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        answer = asyncio.create_task(report(broker, key, 10, 0))
        await asyncio.sleep(0.05)
        assert not answer.done()
        await broker.decide(key, 10, go_on=go_on)
        return (await answer).go_on

    assert run(scenario(go_on=True)) is True
    assert run(scenario(go_on=False)) is False


def test_a_lane_that_lost_its_workers_gets_its_trial_again(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        broker = Broker(make_config(), ())
        keys = [await broker.submit({WEIGHT: weight}) for weight in (1.0, 2.0)]
        for _ in range(MAX_ATTEMPTS):
            assert (await broker.next_trial("lane-0", 1)).key == keys[0]
        await broker.fail("lane-0", keys[0], "MemoryError: too large", final=False)
        assert (await broker.next_trial("lane-0", 1)).key == keys[1]
        event = await broker.next_event(keys[0], 0, 1)
        assert event.kind == "failed"
        assert "3 times: MemoryError: too large" in event.error

    run(scenario())


def test_stopped_trials_are_pruned_and_whole_ones_finished(make_config: MakeConfig) -> None:
    config = make_config()

    async def scenario() -> list[str]:
        broker = Broker(config, ())
        keys = []
        for weight, step in ((1.0, 20), (2.0, 40)):
            keys.append(await broker.submit({WEIGHT: weight}))
            await broker.next_trial("lane-0", 1)
            await report(broker, keys[-1], step, 0)
            await broker.finish("lane-0", keys[-1], step=step, oracle={"test": 0.5})
        assert await broker.wait_until_idle(1)
        return keys

    keys = run(scenario())
    ends = [json.loads((config.folder / "trials" / k / "end.json").read_text()) for k in keys]
    assert [end["state"] for end in ends] == ["pruned", "finished"]
    events = [event for _, event in TrackingQueue(config.folder / "tracking").read(0)]
    statuses = [event.status for event in events if isinstance(event, TrialEnded)]
    assert statuses == ["KILLED", "FINISHED"]


def test_a_new_broker_takes_up_what_is_on_storage(make_config: MakeConfig) -> None:
    config = make_config()

    async def first() -> str:
        broker = Broker(config, ())
        done = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        await report(broker, done, 40, 0, 1, 2)
        await broker.finish("lane-0", done, step=40, oracle=None)
        cut_off = await broker.submit({WEIGHT: 2.0})
        await broker.next_trial("lane-0", 1)
        await report(broker, cut_off, 10, 0, 1, 1)
        return done

    async def second(done: str) -> None:
        broker = Broker(config, ())
        assert await broker.submit({WEIGHT: 1.0}) == done
        event = await broker.next_event(done, 0, 1)
        assert event.last
        cut_off = await broker.submit({WEIGHT: 2.0})
        assignment = await broker.next_trial("lane-0", 1)
        assert assignment.key == cut_off
        await report(broker, cut_off, 40, 0, 1, 2)
        assert (await broker.next_event(cut_off, 1, 1)).score == 1.0

    run(second(run(first())))


def test_an_error_ends_every_trial_that_is_left_and_later_ones(make_config: MakeConfig) -> None:
    config = make_config()

    async def scenario() -> list[Any]:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.close("all lanes ended")
        late = await broker.submit({WEIGHT: 2.0})
        assert await broker.next_trial("lane-0", 1) == "close"
        assert await broker.error() == "all lanes ended"
        return [await broker.next_event(k, 0, 1) for k in (key, late)]

    assert {event.error for event in run(scenario())} == {"all lanes ended"}
    # Not for good: the next life of the study runs them.
    assert not list(config.folder.glob("trials/*/end.json"))


def test_a_full_disk_ends_the_study_and_no_trial(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> str:
        broker = Broker(config, (), "a life")
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        with monkeypatch.context() as patch:
            patch.setattr(TrialFiles, "append_report", full)
            patch.setattr(StudyStore, "write", full)
            answer = await report(broker, key, 10, 0)
        assert not answer.go_on
        await broker.finish("lane-0", key, step=10, oracle=None)
        await broker.fail("lane-0", key, "an error that follows", final=True)
        return await broker.error()

    assert "storage cannot be written ([Errno 28] No space left" in run(scenario())
    assert not list(config.folder.glob("trials/*/end.json"))


class Lives:
    """A broker that can be ended without a word, and started again in the same life."""

    def __init__(self, config: StudyConfig, rungs: tuple[int, ...] = ()) -> None:
        self._config, self._rungs = config, rungs
        self.now = self.next()

    def next(self, life: str = "one") -> Broker:
        self.now = Broker(self._config, self._rungs, life)
        return self.now


def test_a_broker_that_died_goes_on_where_it_was(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        lives = Lives(make_config(), (10, 20))
        keys = [await lives.now.submit({WEIGHT: weight}) for weight in (1.0, 2.0, 3.0)]
        await lives.now.lane_started("lane-0", ("node",))
        await lives.now.next_trial("lane-0", 1)
        await lives.now.decide(keys[0], 10, go_on=True)
        assert (await report(lives.now, keys[0], 10, 0)).go_on
        await lives.now.decide(keys[0], 20, go_on=False)
        broker = lives.next()
        # The decision that nobody had heard of, the trial's lane, those that wait, in their order.
        assert not (await report(broker, keys[0], 20, 0)).go_on
        assert (await broker.next_event(keys[0], 1, 1)).step == 20
        await broker.finish("lane-0", keys[0], step=20, oracle=None)
        assert (await broker.next_trial("lane-0", 1)).key == keys[1]
        assert (await broker.next_trial("lane-1", 1)).key == keys[2]
        state = await broker.lanes()
        assert state.lanes["lane-0"].nodes == ("node",)
        late = await broker.submit({WEIGHT: 4.0})
        await broker.stop()
        broker = lives.next()
        assert await broker.next_trial("lane-2", 1) == "close"
        assert (await broker.next_event(late, 0, 1)).kind == "paused"

    run(scenario())


def test_another_life_hands_out_nothing_that_it_was_not_asked_for(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        lives = Lives(make_config())
        key = await lives.now.submit({WEIGHT: 1.0})
        await lives.now.next_trial("lane-0", 1)
        broker = lives.next("two")
        assert await broker.next_trial("lane-0", 0.01) is None
        assert await broker.submit({WEIGHT: 1.0}) == key
        assert (await broker.next_trial("lane-1", 1)).key == key

    run(scenario())


def test_a_lane_that_lost_its_trial_to_another_is_heard_no_more(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        broker = Broker(make_config(), ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        await broker.lane_lost("lane-0")
        assert (await broker.next_trial("lane-1", 1)).key == key
        assert await broker.is_to_pause("lane-0", key)
        assert await report(broker, key, 10, 0) == Verdict(go_on=False, keep=False)
        await broker.finish("lane-0", key, step=10, oracle=None)
        await broker.fail("lane-0", key, "too late", final=True)
        assert not await broker.wait_until_idle(0.01)
        assert (await report(broker, key, 10, 0, lane="lane-1")).go_on

    run(scenario())


def test_a_trial_whose_lane_lost_its_node_is_not_to_blame(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        broker = Broker(make_config(), ())
        keys = [await broker.submit({WEIGHT: weight}) for weight in (1.0, 2.0)]
        for number in range(2 * MAX_ATTEMPTS):
            assert (await broker.next_trial(f"lane-{number}", 1)).key == keys[0]
            await broker.lane_lost(f"lane-{number}", blame=False)
        assert (await broker.next_trial("lane-a", 1)).key == keys[0]
        for name in ("a", "b", "c"):  # but a silent one may be the trial's doing
            await broker.lane_lost(f"lane-{name}")
            key = (await broker.next_trial(f"lane-{chr(ord(name) + 1)}", 1)).key
        assert key == keys[1]

    run(scenario())


def test_a_lane_that_is_lost_gets_no_trial_however_late_it_asks(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        lives = Lives(make_config())
        asked = asyncio.create_task(lives.now.next_trial("lane-0", 5))
        await asyncio.sleep(0.05)
        await lives.now.lane_lost("lane-0")
        await lives.now.submit({WEIGHT: 1.0})
        assert await asked == "close"
        broker = lives.next()
        await broker.lane_started("lane-0", ("node",))
        assert (await broker.lanes()).lanes == {}
        assert await broker.next_trial("lane-0", 1) == "close"
        assert (await broker.next_trial("lane-1", 1)).config.adaptation.weight == 1.0

    run(scenario())


def test_a_trial_that_got_on_may_lose_its_lane_again(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        broker = Broker(make_config(), ())
        key = await broker.submit({WEIGHT: 1.0})
        for step in (10, 20, 30):
            for _ in range(MAX_ATTEMPTS - 1):
                assert (await broker.next_trial("lane-0", 1)).key == key
            await report(broker, key, step, 0)

    run(scenario())


def test_relays_hear_the_same_from_a_broker_that_was_started_again(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        lives = Lives(make_config(objective=BY_AMI))
        key = await lives.now.submit({WEIGHT: 1.0})
        await lives.now.next_trial("lane-0", 1)
        await ami_reports(lives.now, key, 0.8, 0.3)
        heard = [(await lives.now.next_event(key, n, 1)).score for n in range(2)]
        again = [(await lives.next().next_event(key, n, 1)).score for n in range(2)]
        assert heard == again == [0.8, 0.8]

    run(scenario())


def test_a_trial_that_an_earlier_life_left_open_is_waited_for_once_it_is_asked_for(
    make_config: MakeConfig,
) -> None:
    config = make_config()

    async def first_life() -> str:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0, "seed": 7}, "again")
        assert await broker.next_trial("lane-0", 1)
        assert not await broker.wait_until_idle(0.01)
        return key

    async def second_life(key: str) -> None:
        broker = Broker(config, ())
        assert await broker.wait_until_idle(1)
        assert await broker.submit({WEIGHT: 1.0, "seed": 7}, "again") == key
        assert not await broker.wait_until_idle(0.01)
        assert (await broker.next_trial("lane-0", 1)).key == key
        assert not await broker.wait_until_idle(0.01)
        await broker.fail("lane-0", key, "over", final=True)
        assert await broker.wait_until_idle(1)

    run(second_life(run(first_life())))


def test_a_study_that_stops_lets_trials_pause_and_no_other_start(make_config: MakeConfig) -> None:
    config = make_config()

    async def scenario() -> tuple[str, ...]:
        broker = Broker(config, (10,))
        running, waiting = [await broker.submit({WEIGHT: weight}) for weight in (1.0, 2.0)]
        await broker.next_trial("lane-0", 1)
        assert not await broker.is_to_pause("lane-0", running)
        await broker.stop()
        assert (await broker.next_event(waiting, 0, 1)).kind == "paused"
        assert await broker.is_to_pause("lane-0", running)
        assert not await broker.wait_until_idle(0.01)
        # At a rung, nobody is left who would decide.
        assert (await report(broker, running, 10, 0)).go_on
        await broker.paused("lane-0", running)
        assert (await broker.next_event(running, 1, 1)).kind == "paused"
        assert await broker.wait_until_idle(1)
        late = await broker.submit({WEIGHT: 3.0})
        assert (await broker.next_event(late, 0, 1)).kind == "paused"
        assert await broker.next_trial("lane-0", 1) == "close"
        return running, waiting, late

    keys = run(scenario())
    key = keys[0]
    assert not list(config.folder.glob("trials/*/end.json"))
    events = [event for _, event in TrackingQueue(config.folder / "tracking").read(0)]
    ended = [e.trial for e in events if isinstance(e, TrialEnded)]
    assert sorted(ended) == sorted(keys)  # all runs are closed, each once

    async def next_life() -> None:
        broker = Broker(config, ())
        assert await broker.submit({WEIGHT: 1.0}) == key
        assert (await broker.next_trial("lane-0", 1)).key == key

    run(next_life())
    events = [event for _, event in TrackingQueue(config.folder / "tracking").read(0)]
    last = [e for e in events if isinstance(e, TrialEnded | TrialStarted) and e.trial == key][-1]
    assert isinstance(last, TrialStarted)  # its run in MLflow runs again


@pytest.mark.parametrize("untold", [1, 2, 3, 4, 5, 6, 7])
def test_what_a_broker_had_no_time_to_tell_the_next_one_tells_once(
    make_config: MakeConfig, untold: int
) -> None:
    """The queue loses its last lines, as if the broker had died before it wrote them."""
    config = make_config()

    async def life() -> None:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        await report(broker, key, 10, 0)
        await report(broker, key, 40, 0)
        await broker.finish("lane-0", key, step=40, oracle={"test": 0.5})

    run(life())
    file = config.folder / "tracking" / "events.jsonl"
    whole = file.read_text()
    file.write_text("".join(line + "\n" for line in whole.splitlines()[:-untold]))
    for _ in range(2):
        Broker(config, ())
        told = file.read_text().splitlines()
        # What stands twice is the same to the last digit, so that MLflow keeps it once.
        assert set(told) == set(whole.splitlines())


def test_silent_lanes_end_the_study(make_config: MakeConfig) -> None:
    async def scenario() -> str:
        broker = Broker(make_config(resources={"report_timeout_s": 0.05}), ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        await asyncio.sleep(0.1)
        await broker.next_event(key, 0, 0.01)
        return (await broker.next_event(key, 0, 1)).error

    assert "no lane gave a sign of life for 0.05 s" in run(scenario())


def test_a_refused_setting_is_an_error(make_config: MakeConfig) -> None:
    async def scenario() -> None:
        await Broker(make_config(), ()).submit({WEIGHT: -1.0})

    with pytest.raises(ValueError, match="greater than or equal to 0"):
        run(scenario())


def test_a_students_batches_are_as_large_as_the_studys_trials(make_config: MakeConfig) -> None:
    async def scenario() -> TrialConfig:
        broker = Broker(make_config(), ())
        await broker.submit({"student": {"teachers": ["a", "b"]}}, "student")
        return (await broker.next_trial("lane-0", 1)).config

    config = run(scenario())
    assert config.student is not None
    assert config.student.batch_size is None
    assert config.batch_size == make_config().trial.batch_size == 8


# The report that is kept


AMI = "score/class_ami"
BY_AMI = {"score": "class_ami", "checkpoint_score": "class_ami"}


async def ami_reports(
    broker: Broker, key: str, *values: float, first: int = 0, **metrics: float
) -> list[Verdict]:
    """Reports at steps 10, 20, … whose class_ami is each value; their answers."""
    return [
        await report(broker, key, 10 * (first + n + 1), 0, 1, 2, **{AMI: value, **metrics})
        for n, value in enumerate(values)
    ]


def test_the_best_report_of_a_trial_is_kept_and_of_equals_the_newest(
    make_config: MakeConfig,
) -> None:
    config = make_config(objective=BY_AMI)

    async def scenario() -> str:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        verdicts = await ami_reports(broker, key, 0.3, 0.6, 0.6, 0.1)
        assert [verdict.keep for verdict in verdicts] == [True, True, True, False]
        # What the search hears is the value of what is kept.
        heard = [(await broker.next_event(key, n, 1)).score for n in range(4)]
        assert heard == [0.3, 0.6, 0.6, 0.6]
        await broker.finish("lane-0", key, step=40, oracle=None)
        return key

    files = StudyStore(config.folder).trial(run(scenario()))
    kept = files.kept()
    assert kept is not None
    assert kept.step == 30
    assert [record.metrics[AMI] for record in files.reports()] == [0.3, 0.6, 0.6, 0.1]


def test_a_report_that_is_told_again_is_answered_as_before(make_config: MakeConfig) -> None:
    config = make_config(objective=BY_AMI)

    async def first() -> str:
        broker = Broker(config, ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        await ami_reports(broker, key, 0.6, 0.1)
        return key

    async def second(key: str) -> list[bool]:
        broker = Broker(config, ())
        await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        return [verdict.keep for verdict in await ami_reports(broker, key, 0.6, 0.1)]

    assert run(second(run(first()))) == [True, False]


def test_a_trusted_report_is_kept_rather_than_a_better_one_that_is_not(
    make_config: MakeConfig,
) -> None:
    async def scenario() -> tuple[list[bool], float]:
        broker = Broker(make_config(objective=BY_AMI), ())
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        verdicts = await ami_reports(broker, key, 0.9, **COLLAPSED)
        verdicts += await ami_reports(broker, key, 0.2, first=1)
        verdicts += await ami_reports(broker, key, 0.8, first=2, **COLLAPSED)
        return [each.keep for each in verdicts], (await broker.next_event(key, 2, 1)).score

    assert run(scenario()) == ([True, True, False], 0.2)


@pytest.mark.parametrize("score", ["ensv", "class_ami"])
def test_by_default_the_checkpoint_that_the_surest_others_agree_with_is_kept(
    make_config: MakeConfig, score: str
) -> None:
    config = make_config(objective={"score": score})

    async def scenario() -> str:
        broker = Broker(config, ())
        for weight in range(1, 6):
            other = await broker.submit({WEIGHT: float(weight)})
            await broker.next_trial("lane-0", 1)
            await report(broker, other, 40, 0, 1, 2)
            await broker.finish("lane-0", other, step=40, oracle=None)
        key = await broker.submit({WEIGHT: 9.0})
        await broker.next_trial("lane-0", 1)
        keeps = [
            (await report(broker, key, 10 * (n + 1), *classes)).keep
            for n, classes in enumerate([(0, 0, 0), (0, 1, 2), (0, 1, 0)])
        ]
        assert keeps == [True, True, False]
        return key

    key = run(scenario())
    np.testing.assert_array_equal(
        np.load(config.folder / "trials" / key / "predictions.npy"), votes(0, 1, 2)
    )


def test_a_trial_ends_in_order_after_reports_without_a_better_one(make_config: MakeConfig) -> None:
    config = make_config(objective={**BY_AMI, "patience": 2})

    async def scenario() -> str:
        broker = Broker(config, (30,))  # the schedule has no say any more
        key = await broker.submit({WEIGHT: 1.0})
        await broker.next_trial("lane-0", 1)
        verdicts = await ami_reports(broker, key, 0.6, 0.5, 0.5)
        assert [verdict.go_on for verdict in verdicts] == [True, True, False]
        assert (await broker.next_event(key, 2, 1)).last
        await broker.finish("lane-0", key, step=30, oracle=None)
        return key

    key = run(scenario())
    assert json.loads((config.folder / "trials" / key / "end.json").read_text())["state"] == (
        "finished"
    )


def test_several_scores_are_ranked_and_the_mean_rank_is_reported(make_config: MakeConfig) -> None:
    config = make_config(objective={"score": ["class_ami", "information_maximisation"]})

    async def scenario() -> list[float]:
        broker = Broker(config, ())
        heard = []
        for weight, ami, information in ((1.0, 0.5, 1.0), (2.0, 0.9, 0.5), (3.0, 0.7, 2.0)):
            key = await broker.submit({WEIGHT: weight})
            await broker.next_trial("lane-0", 1)
            metrics = {AMI: ami, "score/information_maximisation": information}
            await report(broker, key, 40, 0, 1, 2, **metrics)
            heard.append((await broker.next_event(key, 0, 1)).score)
            await broker.finish("lane-0", key, step=40, oracle=None)
        return heard

    # Alone; first and last of two; second and first of three.
    assert run(scenario()) == [0.5, 0.5, 0.75]
    reported = [
        event.values["score/mean_rank"]
        for _, event in TrackingQueue(config.folder / "tracking").read(0)
        if isinstance(event, MetricsReported) and "score/mean_rank" in event.values
    ]
    assert reported == [0.5, 0.5, 0.75]


def test_a_trial_that_violates_a_constraint_is_not_shown_as_the_best(
    make_config: MakeConfig,
) -> None:
    search = {"constraints": {"loss/target": {"max": 0.5}}}
    config = make_config(objective={"score": "class_ami"}, search=search)

    async def life(broker: Broker) -> dict[str, Any]:
        for weight, loss, score in ((1.0, 0.9, 0.9), (2.0, 0.5, 0.3)):
            key = await broker.submit({WEIGHT: weight})
            if await broker.next_trial("lane-0", 0.01):
                reported = {"loss/target": loss, "score/class_ami": score}
                await report(broker, key, 40, 0, 1, 2, **reported)
                await broker.finish("lane-0", key, step=40, oracle=None)
        return await broker.snapshot()

    for _ in range(2):  # the second time from what is on storage
        assert run(life(Broker(config, ())))["best"]["score"] == 0.3
    events = [event for _, event in TrackingQueue(config.folder / "tracking").read(0)]
    tags = [event.tags for event in events if isinstance(event, TagsSet)]
    told = [each["gam_ray.constraints"] for each in tags if "gam_ray.constraints" in each]
    assert told == ["constraint loss/target <= 0.5 (search.constraints), but got 0.9"]
