"""A search: every slot is trained once, whatever happens to its workers, and the best is found."""

from __future__ import annotations

import contextlib
import csv
import getpass
import html
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
from absl import app
from conftest import ROOT
from test_sweep import UNSCORED

import cli
import population
import progress
import runs
import search
import settings
import sweep
import train

STATES = optuna.trial.TrialState
R1 = {"penalties.r1": search.Range(0.01, 10.0, log=True, whole=False)}
TARGET = "--target=train/g_loss"
SEARCH = (*UNSCORED, "--search=config.penalties.r1=log:0.01:10", TARGET)


def table(workdir):
    with (workdir / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def slots_by_state(study):
    return Counter(
        (trial.user_attrs["slot"], trial.state.name)
        for trial in study.get_trials()
        if trial.state in (STATES.COMPLETE, STATES.PRUNED)
    )


@pytest.fixture
def join(tmp_path):
    """join('a'): a worker's study, in a folder of its own; the same folder where named so again."""
    with contextlib.ExitStack() as stack:
        storage = optuna.storages.InMemoryStorage()

        def make(name, space=R1, begin_with=(), num=3, seed=0, lease=60.0, swept=None):
            workdir = tmp_path / name / "search"
            workdir.mkdir(parents=True, exist_ok=True)
            study = search.Study(
                storage, swept or {}, space, begin_with, num, seed, lease, 0, workdir, differences
            )
            return stack.enter_context(study)

        yield make


def differences(before, now):
    return [] if before == now else [f"{before} there, {now} now"]


def never():
    return False


def test_a_range_is_read():
    assert search.read_range("log:1e-2:10", float) == search.Range(0.01, 10.0, True, False)
    assert search.read_range("1:8", int) == search.Range(1, 8, False, True)
    assert search.read_range("(8,4),(4,2)", tuple) == ["(8,4)", "(4,2)"]
    assert search.read_range("folder:/a,digits", str) == ["folder:/a", "digits"]
    mistakes = ("3:1", "1:1", "log:0:1", "a:b", "hinge", "a,a", "nan:1", "1:inf")
    for text in mistakes:
        with pytest.raises(app.UsageError):
            search.read_range(text, float)
    with pytest.raises(app.UsageError, match="whole numbers"):
        search.read_range("1:2.5", int)


def test_a_number_is_as_a_person_would_write_it():
    assert search.Range(0.01, 10, True, False).word(0.0123456) == "0.01235"
    assert search.Range(0.123449, 1, True, False).word(0.1234491) == "0.123449"  # never outside
    assert search.Range(1, 8, False, True).word(3) == "3"


def test_every_slot_is_taken_once(join):
    first, second = join("a"), join("b")
    taken = [*first.take(2, never), *second.take(5, never)]
    assert [trial.slot for trial in taken] == [0, 1, 2]
    for study, trial in zip((first, first, second), taken):
        assert 0.01 <= float(trial.setting["penalties.r1"]) <= 10
        assert study.tell(trial, 1.0, {0: {"step": trial.slot}})
    assert first.take(1, never) == second.take(1, never) == []
    found = first.found()
    assert [(x.slot, x.state, x.rows) for x in found] == [
        (i, "done", {0: {"step": i}}) for i in range(3)
    ]
    assert [x.setting for x in found] == [trial.setting for trial in taken]


def test_what_is_proposed_depends_on_seed_and_slot_and_what_was_told(tmp_path):
    def settings(seed, workers, value=float):
        storage = optuna.storages.InMemoryStorage()
        place = tmp_path / "search"
        place.mkdir(exist_ok=True)
        found = []
        with contextlib.ExitStack() as stack:
            for i in range(14):  # beyond the ten that the sampler draws at random
                if i % workers == 0:  # a worker that starts again
                    study = stack.enter_context(
                        search.Study(storage, {}, R1, (), 14, seed, 60, 0, place, differences)
                    )
                [trial] = study.take(1, never)
                found.append(float(trial.setting["penalties.r1"]))
                study.tell(trial, value(found[-1]), {})
        return found

    one = settings(0, 100)
    assert len(set(one)) == 14
    assert settings(0, 3) == one
    assert settings(1, 100)[0] != one[0]
    told_otherwise = settings(0, 100, lambda x: -x)
    assert told_otherwise[:10] == one[:10]
    assert told_otherwise[10:] != one[10:]


def test_a_search_finds_what_is_good(join):
    study = join("a", num=40)
    distances = []
    while trials := study.take(1, never):
        distances.append(abs(math.log10(float(trials[0].setting["penalties.r1"])) - 0.5))
        study.tell(trials[0], distances[-1], {})
    assert sum(distances[-15:]) < sum(distances[:15]) / 2
    assert min(distances) < 0.05


def test_the_grid_comes_first(join):
    space = {"loss": ["hinge", "minimax"], **R1}
    study = join("a", space, [{"loss": "hinge"}, {"loss": "minimax", "penalties.r1": 2.5}])
    taken = study.take(3, never)
    assert [trial.setting["loss"] for trial in taken][:2] == ["hinge", "minimax"]
    assert taken[1].setting["penalties.r1"] == "2.5"


LOSSES = {"loss": ["hinge", "minimax"]}


def test_a_setting_that_comes_again_has_other_seeds(join):
    study = join("a", LOSSES, [{"loss": x} for x in ("hinge", "minimax", "hinge")])
    assert [trial.draw for trial in study.take(3, never)] == [0, 0, 3]


@pytest.mark.parametrize("quicker", [0, 1])
def test_one_setting_that_two_propose_at_a_moment_has_two_draws(join, quicker):
    """Whichever is the last to look sees what the other has proposed."""
    studies = [join(name, LOSSES, [{"loss": "hinge"}] * 2, num=2) for name in ("a", "b")]
    first, second = studies[quicker], studies[1 - quicker]
    words, taken = first._words, []

    def meanwhile(params):  # between the first one's proposal and its look at others'
        if not taken:
            taken.append(None)
            taken[:] = second.take(1, never)
        return words(params)

    first._taking = second._taking = contextlib.nullcontext()
    first._words = meanwhile
    taken += first.take(1, never)
    assert sorted(trial.slot for trial in taken) == [0, 1]
    assert len({trial.draw for trial in taken}) == 2


def test_a_setting_of_the_grid_outlives_a_worker_that_had_only_asked(join):
    dead, other = (join(name, LOSSES, [{"loss": "minimax"}], 1, lease=0.2) for name in ("a", "b"))
    dead._study.ask()  # and no more
    dead._closing.set()
    [taken] = other.take(1, never)
    assert taken.setting == {"loss": "minimax"}


def test_an_attempt_that_came_twice_is_not_taken_up(join):
    """Two have queued the same slot, and one that had asked for the second dies at once."""
    study, other = join("a", num=1, lease=1e9), join("b", num=1, lease=1e9)
    study._study.enqueue_trial({}, user_attrs={"slot": 0})
    [held] = study.take(1, never)
    study._study.ask()
    other._is_dead = lambda trial: trial.number == 1
    stops = iter([False, False, True, True])
    assert other.take(1, lambda: next(stops)) == []
    assert study.tell(held, 1.0, {})
    assert other.take(1, never) == []
    assert slots_by_state(study._study) == {(0, "COMPLETE"): 1}


def test_the_trial_of_a_worker_that_died_elsewhere_is_taken_up(join):
    """Its lease runs out; what it says when it turns out to live does not count."""
    slow, quick = join("a", num=2, lease=1e9), join("b", num=2, lease=0.5)
    [held] = slow.take(1, never)
    [other] = quick.take(1, never)
    quick.tell(other, 1.0, {})
    begun = time.monotonic()
    [again] = quick.take(1, never)
    assert time.monotonic() - begun > 0.5
    assert (again.slot, again.setting) == (held.slot, held.setting)
    assert not slow.tell(held, 5.0, {})
    assert slow.report(held, 1, 5.0)  # end it
    assert quick.tell(again, 2.0, {})
    assert not slow.tell(held, 5.0, {})
    assert quick.take(1, never) == slow.take(1, never) == []
    assert sorted(trial.value for trial in quick._study.get_trials() if trial.value) == [1.0, 2.0]


def die(study):
    """What is left of a worker whose process the system has ended."""
    study._closing.set()
    study._lock.release()


@pytest.mark.parametrize("beside", [0, 1])
def test_a_trial_that_ends_its_workers_fails(join, beside):
    """All that may have died of it: it is not taken up again, and what they had beside it is trained."""
    begin_with = [{"penalties.r1": float(i + 1)} for i in range(1 + beside)]
    for _ in range(search.DEATHS):
        study = join("a", begin_with=begin_with, num=1 + beside)
        taken = study.take(1 + beside, never)
        assert "1.0" in [trial.setting["penalties.r1"] for trial in taken]
        die(study)
    last = join("a", begin_with=begin_with, num=1 + beside)
    for trial in last.take(2, never):
        assert trial.slot == 1
        last.tell(trial, 1.0, {})
    assert last.take(1, never) == []
    reason = f"its worker died {search.DEATHS} times"
    found = [(x.slot, x.setting["penalties.r1"], x.state, x.reason) for x in last.found()]
    assert found == [(0, "1.0", "failed", reason), (1, "2.0", "done", "")][: 1 + beside]
    assert set(slots_by_state(last._study).values()) == {1}


def test_a_stop_is_no_death(join):
    for _ in range(search.DEATHS + 1):
        study = join("a", num=1)
        [trial] = study.take(1, never)
        study.give_back(trial)
    [trial] = join("a", num=1).take(1, never)
    assert trial.slot == 0


def test_one_that_is_slow_and_told_first_counts(join):
    """Taken for dead and queued again, but told before another worker has begun: it is not trained twice."""
    slow, quick = join("a", num=1, lease=1e9), join("b", num=1, lease=0.2)
    [held] = slow.take(1, never)
    quick._is_dead = lambda trial: True
    quick._queue_again(quick._trials())
    assert slow.tell(held, 5.0, {})
    assert quick.take(1, never) == []
    assert slots_by_state(quick._study) == {(0, "COMPLETE"): 1}


def test_two_that_queue_the_same_train_it_once(join):
    dead = join("a", num=1, lease=1e9)
    dead.take(1, never)
    others = [join(name, num=1, lease=1e9) for name in ("b", "c")]
    trials = others[0]._trials()
    for other in others:
        other._is_dead = lambda trial: True
        other._queue_again(trials)
    [taken] = others[0].take(1, never)
    others[1]._is_dead = lambda trial: False
    stops = iter([False, False, True, True])
    assert others[1].take(1, lambda: next(stops)) == []
    assert others[0].tell(taken, 1.0, {})
    assert others[1].take(1, never) == []
    assert slots_by_state(dead._study) == {(0, "COMPLETE"): 1}


def test_a_worker_that_lives_keeps_its_trial(join):
    """It renews its mark; and of one folder on one machine its process alone is asked."""
    alive, other = join("a", num=1, lease=0.4), join("b", num=1, lease=1.5)
    beside = join("a", num=1, lease=0.0)
    alive.take(1, never)
    for study in (other, beside):
        until = time.monotonic() + 4
        assert study.take(1, lambda until=until: time.monotonic() > until) == []


def test_what_is_given_back_is_taken_by_the_next(join):
    study, other = join("a", num=1), join("b", num=1)
    [trial] = study.take(1, never)
    study.give_back(trial)
    [again] = other.take(1, never)
    assert again.setting == trial.setting
    assert other.tell(again, 1.0, {})
    assert slots_by_state(study._study) == {(0, "COMPLETE"): 1}


def test_a_stop_gives_back_what_was_taken(join):
    study = join("a")
    stops = iter([False, False, True, True])
    assert study.take(3, lambda: next(stops)) == []
    assert [trial.slot for trial in join("b").take(3, never)] == [0, 1, 2]


def test_another_search_of_that_name_is_refused(join):
    join("a", swept={"seeds": 1})
    with pytest.raises(app.UsageError, match="is another search"):
        join("b", swept={"seeds": 2})


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_storage_that_breaks_is_one_line(tmp_path, when):
    file = tmp_path / "search.db"
    storage = search.open_storage(f"sqlite:///{file}")

    def work():
        if when == "before":
            lose_tables(file)
        with search.Study(storage, {}, R1, (), 3, 0, 60.0, 0, tmp_path, differences) as study:
            lose_tables(file)
            study.take(1, never)

    with pytest.raises(OSError, match=r"storage of the search does not answer: .*no such table"):
        work()


def lose_tables(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for table in ("studies", "trials"):
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_lost")
        connection.commit()


def test_more_slots_are_added(join):
    study = join("a", num=2)
    for trial in study.take(2, never):
        study.tell(trial, 1.0, {})
    more = join("a", num=4)
    assert [trial.slot for trial in more.take(9, never)] == [2, 3]


def test_fewer_slots_are_enough(join):
    """What an earlier start has queued beyond them waits on."""
    study = join("a", num=4)
    [trial] = study.take(1, never)
    study.tell(trial, 1.0, {})
    two = join("a", num=2)
    [last] = two.take(9, never)
    assert join("a", num=1).take(9, never) == []
    two.tell(last, 1.0, {})
    assert two.take(9, never) == []
    assert len(study.take(9, never)) == 2


def test_settings_that_failed_are_none_to_compare_with(join):
    study = join("a", num=search.PRUNED_FROM + 6)
    for trial in study.take(search.PRUNED_FROM, never):
        study.fail(trial, "impossible")
    for _ in range(search.PRUNED_FROM):
        [trial] = study.take(1, never)
        assert not study.report(trial, 1, 1.0)
        [worse] = study.take(1, never)
        assert not study.report(worse, 1, 2.0)
        study.give_back(worse)
        study.tell(trial, 1.0, {})
    [worse] = study.take(1, never)
    assert study.report(worse, 1, 2.0)


def write_rows(workdir, *rows):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def losses(*values):
    return [
        {"step": 5 * i, "images": 40 * i, "seconds": i, "train/g_loss": value}
        for i, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("before", "pruned"), [((1.0, 3.0), False), ((3.0, 1.0), False), ((3.0, 3.0), True)]
)
def test_a_trial_that_goes_on_is_judged_by_its_best(
    join, tmp_path, make_config, monkeypatch, before, pruned
):
    study = join("a", num=search.PRUNED_FROM + 1)
    for other in study.take(search.PRUNED_FROM, never):
        for step in (5, 10):
            study.report(other, step, 2.0)
        study.tell(other, 2.0, {})
    [trial] = study.take(1, never)
    rows, watched = losses(*before), []
    write_rows(tmp_path / "run", *rows)

    def resume(configs, workdirs, folder, init_from, stop, profile, watch, prepared):
        watched.append(watch(rows[-1]))

    monkeypatch.setattr(train, "train_together", resume)
    monkeypatch.setattr(sweep, "PRUNE", SimpleNamespace(value=True))
    config = make_config("configs/digits.py", {"num_steps": 20})
    run = settings.Run({}, config, tmp_path / "run", SimpleNamespace(gan=None))
    asked = settings.Sweep(config, {}, R1, 1, "train/g_loss", tmp_path, {}, set())
    assert sweep.train_alone(asked, study, trial, [run], never) == pruned
    assert watched == ([] if pruned else [False])  # without a checkpoint it would begin anew


def test_a_trial_without_a_row_at_its_last_step_ends(command, tmp_path, monkeypatch):
    """Given back it would be taken again without end."""
    trained = []

    def short(configs, workdirs, *_):
        assert workdirs not in trained
        trained.append(workdirs)
        write_rows(workdirs[0], *losses(2.0, 1.0))

    monkeypatch.setattr(train, "train_together", short)
    workdir = tmp_path / "search"
    outcome = command("sweep.py", *SEARCH, "--trials=2", "--notogether", f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(": train/g_loss = 1\n") == 2
    assert [row["state"] for row in table(workdir)] == ["done"] * 2


def test_a_seed_that_has_ended_without_a_checkpoint_is_not_begun_again(
    command, tmp_path, monkeypatch
):
    workdir, trained = tmp_path / "search", []

    def train_together(configs, workdirs, *_):
        trained.append(workdirs[0].name)
        write_rows(workdirs[0], *losses(4.0, 3.0, 2.0, 3.0))

    monkeypatch.setattr(train, "train_together", train_together)
    words = (*UNSCORED, "--config.checkpoint_every=0", "--grid=config.penalties.r1=1", "--seeds=2")
    words += (TARGET, f"--storage={tmp_path}/log", "--notogether", f"--workdir={workdir}")
    assert command("sweep.py", *words, "--max_seconds=0").code == 0
    write_rows(workdir / "000-penalties.r1=1" / "seed_0", *losses(4.0, 3.0, 2.0, 1.0))
    outcome = command("sweep.py", *words)
    assert outcome.code == 0, outcome.err
    assert trained == ["seed_1"]
    assert "Trial 0, penalties.r1=1: train/g_loss = 2\n" in outcome.out


@pytest.mark.parametrize("how", ["--together", "--notogether"])
def test_a_trial_whose_worker_lives_after_all_is_waited_for(command, tmp_path, monkeypatch, how):
    """Its lease was over, and it holds the run's folder: neither a mistake nor a death."""
    place = tmp_path / "search" / "000-penalties.r1=1" / "seed_0"
    held = []

    def train_any(configs, workdirs, *_, **__):
        for config, workdir in zip(configs, workdirs):
            runs.create(workdir, config, resuming=True).close()
            write_rows(workdir, *losses(4.0, 3.0, 2.0, 1.0))

    def pause(study, stop):
        assert (0, "COMPLETE") not in slots_by_state(study._study)
        assert place.exists()
        held.pop().close()

    for name in ("train_together", "train_members"):
        monkeypatch.setattr(train, name, train_any)
    monkeypatch.setattr(search.Study, "_pause", pause)
    words = (*UNSCORED, "--grid=config.penalties.r1=1,2", TARGET, how, "--ask=2")
    words += (f"--storage={tmp_path}/log", f"--workdir={tmp_path}/search")
    assert command("sweep.py", *words, "--max_seconds=0").code == 0
    held.append(runs.create(place, cli.load_config("configs/digits.py"), resuming=True))
    outcome = command("sweep.py", *words)
    assert outcome.code == 0, outcome.err
    assert f"Later: workdir {place}: another process trains there\n" in outcome.out
    storage = search.open_storage(f"{tmp_path}/log")
    study = optuna.load_study(study_name="search", storage=storage)
    assert slots_by_state(study) == {(0, "COMPLETE"): 1, (1, "COMPLETE"): 1}
    assert not any("deaths" in trial.user_attrs for trial in study.get_trials())


def test_what_is_postponed_comes_last_and_after_a_quarter_of_a_lease(join):
    study = join("a", lease=2.0, num=3)
    first = study.take(2, never)
    study.postpone(first)
    [trial] = study.take(1, never)
    assert trial.slot == 2
    study.tell(trial, 1.0, {})
    begun = time.monotonic()
    assert study.take(1, never) == first
    assert time.monotonic() - begun >= 0.5


def test_a_stop_gives_back_what_was_postponed(join):
    study = join("a", lease=1e9)
    study.postpone(study.take(9, never))
    assert study.take(9, lambda: True) == []
    found = [(trial.user_attrs["slot"], trial.state.name) for trial in study._study.get_trials()]
    assert found == [(i, "FAIL") for i in range(3)] + [(i, "WAITING") for i in range(3)]


def test_what_is_postponed_comes_as_it_was_taken(join, monkeypatch):
    """Trials of one program have their state together."""
    monkeypatch.setattr(search.Study, "_pause", lambda study, stop: None)
    study = join("a", num=5)
    batches = [study.take(2, never) for _ in range(3)]
    for batch in batches:
        study.postpone(batch)
    assert [study.take(1, never) for _ in range(3)] == batches


def test_a_mistake_of_a_command_is_no_death_of_its_trials(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    study = search.Study(storage, {}, R1, (), 2, 0, 60.0, 0, tmp_path, differences)

    def work():
        with study:
            study.take(2, never)
            raise app.UsageError("--max_members")

    with pytest.raises(app.UsageError):
        work()
    states = [(trial.state.name, trial.user_attrs.get("deaths")) for trial in study._study.trials]
    assert states == [("FAIL", None)] * 2 + [("WAITING", None)] * 2


def test_what_has_begun_goes_on_before_another_begins(join):
    """So that a search of short jobs ends its trials, in their groups, and learns from them."""
    study = join("a", num=5)
    first = study.take(2, never)
    for trial in first:
        study.give_back(trial)
    again = study.take(3, never)
    assert [trial.slot for trial in again] == [0, 1, 2]
    assert [trial.setting for trial in again[:2]] == [trial.setting for trial in first]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--together", "--notogether"])
def test_one_that_seemed_dead_meets_who_goes_on_for_it(command, tmp_path, monkeypatch, how):
    """Between two of a trial's runs it holds no folder: another has begun the second."""
    train_together, held = train.train_together, []

    def train_any(configs, workdirs, *rest, **named):
        if workdirs[-1].name == "seed_1" and not held:
            held.append(runs.create(workdirs[-1], configs[-1], resuming=False))
        return train_together(configs, workdirs, *rest, **named)

    monkeypatch.setattr(train, "train_together", train_any)
    monkeypatch.setattr(search.Study, "_pause", lambda study, stop: held[0].close())
    words = (*UNSCORED, "--grid=config.penalties.r1=1", "--seeds=2", TARGET, how)
    words += (f"--storage={tmp_path}/log", f"--workdir={tmp_path}/search")
    outcome = command("sweep.py", *words)
    assert outcome.code == 0, outcome.err
    place = tmp_path / "search" / "000-penalties.r1=1" / "seed_1"
    assert f"Later: workdir {place}: another process trains there\n" in outcome.out
    storage = search.open_storage(f"{tmp_path}/log")
    study = optuna.load_study(study_name="search", storage=storage)
    assert slots_by_state(study) == {(0, "COMPLETE"): 1}
    assert (
        runs.read_metrics(place)[-1]["step"]
        == runs.read_metrics(place.parent / "seed_0")[-1]["step"]
    )


@pytest.mark.slow
def test_what_has_ended_otherwise_is_not_trained_again(command, tmp_path):
    """Runs of a plain grid, which workers of a study take up in programs of their own."""
    workdir = tmp_path / "grid"
    words = (*UNSCORED, "--grid=config.penalties.r1=1,2", TARGET, "--together")
    words += (f"--workdir={workdir}",)
    assert command("sweep.py", *words).code == 0
    before = [path.stat() for path in sorted(workdir.glob("*/seed_0/metrics.jsonl"))]
    assert len(before) == 2
    outcome = command("sweep.py", *words, f"--storage={tmp_path}/log", "--ask=2")
    assert outcome.code == outcome.compilations == 0, outcome.err
    assert [path.stat() for path in sorted(workdir.glob("*/seed_0/metrics.jsonl"))] == before
    assert [row["state"] for row in table(workdir)] == ["done"] * 2


@pytest.mark.slow
def test_max_members_outlives_a_start_that_came_to_nothing(command, tmp_path, monkeypatch):
    words = (*UNSCORED, "--grid=config.penalties.r1=1,2", "--seeds=2", TARGET, "--together")
    words += (f"--storage={tmp_path}/log", f"--workdir={tmp_path}/search", "--ask=2")
    parts = []

    def dies(configs, *_):
        parts.append(len(configs))
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_together", dies)
        with pytest.raises(MemoryError):
            command("sweep.py", *words, "--max_members=2")
    outcome = command("sweep.py", *words, "--max_members=2")
    assert outcome.code == 0, outcome.err
    [group] = (tmp_path / "search").glob("group_*")
    assert parts == [2]
    assert sorted(path.name for path in group.glob("from_*")) == ["from_0", "from_2"]


def test_one_that_trains_alone_does_not_stop_those_asked_for_with_it(
    command, tmp_path, monkeypatch
):
    """Where the platform gains by programs of several."""
    monkeypatch.setattr(population, "gains", lambda: True)
    words = (*UNSCORED, "--grid=config.on_nan=stop,rollback", TARGET, "--ask=2")
    words += (f"--storage={tmp_path}/log", f"--workdir={tmp_path}/search")
    outcome = command("sweep.py", *words)
    assert outcome.code == 0, outcome.err
    assert [row["state"] for row in table(tmp_path / "search")] == ["done"] * 2


def test_what_a_stop_has_cut_is_in_the_table(join):
    study = join("a")
    first, second = study.take(2, never)
    for trial in (second, first):
        study.give_back(trial)
    assert [(x.slot, x.setting, x.state) for x in study.found()] == [
        (trial.slot, trial.setting, "running") for trial in (first, second)
    ]


def test_a_search_trains_and_ranks(command, tmp_path):
    workdir = tmp_path / "search"
    words = (*SEARCH, "--seeds=2", "--noprune", f"--workdir={workdir}")
    outcome = command("sweep.py", *words, "--trials=3")
    assert outcome.code == 0, outcome.err
    rows = table(workdir)
    assert [row["state"] for row in rows] == ["done"] * 6
    values = {}
    for row in rows:
        config = runs.read_config(workdir / row["run"])
        assert config["penalties"]["r1"] == float(row["penalties.r1"])
        assert config["seed"] == int(row["seed"])
        last = runs.read_metrics(workdir / row["run"])[-1]
        assert last["step"] == 20
        values.setdefault(row["penalties.r1"], []).append(last["train/g_loss"])
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{workdir}/search.db")
    told = [trial.value for trial in study.get_trials()]
    assert told == [pytest.approx(sum(both) / 2) for both in values.values()]
    best = min(values, key=lambda r1: sum(values[r1]))
    assert outcome.out.splitlines()[-3].startswith(f"penalties.r1={best} ")
    page = (workdir / "sweep.html").read_text()
    assert page.count("<svg ") == 3  # a dot a setting, and two losses, of which one is the target
    again = command("sweep.py", *words, "--trials=3")
    assert again.code == again.compilations == 0
    assert again.out.splitlines()[-3:] == outcome.out.splitlines()[-3:]
    more = command("sweep.py", *words, "--trials=4")
    assert more.code == 0
    assert table(workdir)[:6] == rows
    assert len(table(workdir)) == 8


@pytest.mark.slow
def test_a_lost_trial_is_the_worst(command, tmp_path):
    workdir = tmp_path / "search"
    words = [*UNSCORED, "--search=config.optimizer.generator.learning_rate=1e-3,1e30", TARGET]
    words += ["--grid=config.loss=hinge", "--trials=4", "--together", "--ask=4"]
    outcome = command("sweep.py", *words, f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    by_rate = {}
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{workdir}/search.db")
    for trial in study.get_trials():
        by_rate.setdefault(trial.params["optimizer.generator.learning_rate"], set()).add(
            math.isinf(trial.value)
        )
    assert by_rate == {"1e-3": {False}, "1e30": {True}}
    assert {row["state"] for row in table(workdir)} == {"done", "lost"}
    seeds = Counter(
        row["optimizer.generator.learning_rate"] + row["seed"] for row in table(workdir)
    )
    assert max(seeds.values()) == 1  # one that comes again has other seeds


def test_a_trial_that_does_worse_is_pruned(command, tmp_path, monkeypatch):
    """Losses rise by hand: after five trials the one with the greatest is ended at half its steps."""
    workdir = tmp_path / "search"
    words = [
        *UNSCORED,
        "--grid=config.penalties.r1=1,2,3,4,5,6",
        TARGET,
        "--prune",
        f"--storage={tmp_path}/log",
    ]
    write_row = progress.write_row

    def by_hand(member, step, row, seconds):
        row["train/g_loss"] = member.config.penalties.r1 * step
        write_row(member, step, row, seconds)

    monkeypatch.setattr(progress, "write_row", by_hand)
    outcome = command("sweep.py", *words, f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    states = {row["penalties.r1"]: (row["state"], row["step"]) for row in table(workdir)}
    assert states.pop("6") == ("pruned", "10")  # a call after the row that says so
    assert set(states.values()) == {("done", "20")}
    assert "6" not in outcome.out.splitlines()[-6].split()[0]
    assert outcome.out.splitlines()[-1].split() == ["penalties.r1=6", *"---0010"]


def test_a_trial_that_has_failed_is_in_the_table(command, tmp_path):
    """Its worker, killed in the middle of it, had begun to train."""
    workdir = tmp_path / "search"
    space = {"penalties.r1": ["1", "2"]}
    words = (*UNSCORED, "--grid=config.penalties.r1=1,2", TARGET, f"--workdir={workdir}")
    words += (f"--storage={tmp_path}/log",)
    assert command("sweep.py", *words).code == 0
    swept = json.loads((workdir / "sweep.json").read_text())
    storage = search.open_storage(f"{tmp_path}/other")
    points = [{"penalties.r1": x} for x in ("1", "2")]
    for _ in range(search.DEATHS):
        with search.Study(
            storage, swept, space, points, 2, 0, 60.0, 0, workdir, differences
        ) as study:
            assert study.take(2, never)[0].slot == 0  # and no more: as if it had died
    outcome = command("sweep.py", *words[:-1], f"--storage={tmp_path}/other")
    assert outcome.code == 0, outcome.err
    rows = {row["penalties.r1"]: row for row in table(workdir)}
    assert (rows["1"]["state"], rows["1"]["step"]) == ("failed", "20")
    assert (rows["2"]["state"], rows["2"]["reason"]) == ("done", "")
    reason = f"its worker died {search.DEATHS} times"
    assert rows["1"]["reason"] == reason
    ranked = outcome.out.splitlines()[-2:]
    assert ranked[0].startswith("penalties.r1=2 ")
    assert ranked[1].split()[:7] == ["penalties.r1=1", "-", "-", "-", "0", "0", "0"]
    assert ranked[1].endswith(f"failed: {reason}")
    assert f"penalties.r1=1 (failed: {reason})" in (workdir / "sweep.html").read_text()


def test_settings_that_cannot_be_have_failed(command, tmp_path):
    """Between ends that are possible; where all are so there is a line and no ranking."""
    workdir = tmp_path / "search"
    words = [*UNSCORED, "--config.accumulate=8", "--search=config.batch_size=8:16", TARGET]
    outcome = command("sweep.py", *words, "--trials=1", f"--workdir={workdir}")
    [row] = table(workdir)
    assert 8 < int(row["batch_size"]) < 16
    assert row["state"] == "failed"
    assert "accumulate" in row["reason"]
    assert f"Trial 0 failed: {row['reason']}" in outcome.out
    assert "pruned" not in outcome.out  # the ranking's head
    assert outcome.code == 2
    assert outcome.err == f"sweep.py: no setting could be trained: {row['reason']}\n"
    assert outcome.compilations == 0
    assert row["reason"] in html.unescape((workdir / "sweep.html").read_text())


WIDTHS = "config.generator.width=8,16"


@pytest.mark.parametrize(
    "how",
    [
        (f"--grid={WIDTHS}",),
        (f"--search={WIDTHS}", "--grid=config.penalties.r1=1,0", "--ask=2", "--trials=2"),
    ],
)
def test_nothing_is_begun_after_a_stop(command, tmp_path, monkeypatch, how):
    """A group's memory is measured by compiling it; of what a stop has left nothing is removed."""
    workdir, begun = tmp_path / "search", []
    monkeypatch.setattr(train, "train_members", lambda *args, **words: begun.append(args[2]))
    monkeypatch.setattr(train, "stopping", lambda signals: lambda: bool(begun))
    words = (*UNSCORED, *how, TARGET, "--together", f"--workdir={workdir}")
    outcome = command("sweep.py", *words)
    assert outcome.code == 0, outcome.err
    assert len(begun) == 1
    assert outcome.out.count("pruned") <= 1  # rankings


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--together", "--ask=2"), ("--notogether",)])
def test_killed_and_started_again(tmp_path, how):
    """SIGKILL in the middle of a trial: the same command goes on with it, and trains each once."""
    workdir = tmp_path / "search"
    words = [sys.executable, "sweep.py", *SEARCH, "--trials=4", "--noprune", f"--workdir={workdir}"]
    words += ["--config.num_steps=100", *how]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    place = "group_*/from_0" if "--together" in how else "001*/seed_0"
    wait_for(lambda: list(workdir.glob(f"{place}/checkpoints/*/_CHECKPOINT_METADATA")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = subprocess.run(
        [*words, "--lease=1e9"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    ).stdout
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{workdir}/search.db")
    assert slots_by_state(study) == {(i, "COMPLETE"): 1 for i in range(4)}
    assert out.count("taken up again") == (2 if "--together" in how else 1)
    assert out.count("Resuming in") == 1
    rows = table(workdir)
    assert [(row["state"], row["step"]) for row in rows] == [("done", "100")] * 4
    for row in rows:
        steps = [x["step"] for x in runs.read_metrics(workdir / row["run"])]
        assert steps == list(range(5, 101, 5))


def wait_for(condition, *processes, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.fixture
def postgresql():
    """The URL of a server that is started for the test, as a user who is not root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    binary = shutil.which(
        "initdb", path=os.pathsep.join([*map(str, programs[::-1]), os.environ["PATH"]])
    )
    if not binary:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="twoplayer-"))  # pytest's own is for its user alone
    root = getpass.getuser() == "root"
    user = {"user": "postgres", "group": "postgres"} if root else {}
    if root:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, bin_folder = folder / "data", Path(binary).parent
    make = [binary, "-D", data, "-U", "twoplayer", "--auth=trust", "--no-sync"]
    subprocess.run(make, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)
    words = ["-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [bin_folder / "postgres", *words], cwd=folder, stdout=log, stderr=log, **user
        )
    try:
        ready = [bin_folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, stdout=subprocess.DEVNULL).returncode == 0, server)
        yield f"postgresql+psycopg://twoplayer@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)


@pytest.mark.slow
def test_three_workers_and_a_database(tmp_path, postgresql):
    """Machines that share nothing else, one killed in the middle: none is lost, none told twice."""
    pytest.importorskip("psycopg")
    words = [
        sys.executable,
        "sweep.py",
        *SEARCH,
        "--trials=9",
        f"--storage={postgresql}",
        "--lease=15",
    ]
    words += ["--config.num_steps=100", "--config.checkpoint_every=50"]
    workers, outs = [], []
    for name in ("a", "b", "c"):
        outs.append((tmp_path / name).with_suffix(".txt"))
        with outs[-1].open("w") as out:
            workdir = f"--workdir={tmp_path}/{name}/search"
            workers.append(subprocess.Popen([*words, workdir], cwd=ROOT, stdout=out, stderr=out))
    wait_for(lambda: list(tmp_path.glob("b/search/*/seed_0/metrics.jsonl")), *workers)
    workers[1].send_signal(signal.SIGKILL)
    assert [worker.wait(timeout=300) for worker in workers] == [0, -signal.SIGKILL, 0], [
        out.read_text() for out in outs
    ]
    study = optuna.load_study(study_name="search", storage=postgresql)
    done = slots_by_state(study)
    assert sorted(slot for slot, _ in done) == list(range(9))
    assert set(done.values()) == {1}
    again = [trial for trial in study.get_trials() if "retry_of" in trial.user_attrs]
    assert [trial.state for trial in again].count(STATES.FAIL) == len(again) - 1  # queued twice
    [again] = [trial for trial in again if trial.state != STATES.FAIL]
    before = study.get_trials()[again.user_attrs["retry_of"]]
    assert before.state == STATES.FAIL
    assert before.params == again.params
    mine = {
        trial.user_attrs["worker"] for trial in study.get_trials() if trial.state != STATES.FAIL
    }
    assert len(mine) in (2, 3)
    for name in ("a", "c"):  # either knows of all
        rows = table(tmp_path / name / "search")
        assert len(rows) == 9
        assert {row["state"] for row in rows} <= {"done", "pruned"}


MISTAKES = {
    "no field": ((*UNSCORED, "--search=config.losss=hinge,minimax"), "did you mean loss?"),
    "no form": ((*UNSCORED, "--search=config.penalties.r1=3"), "write log:LO:HI"),
    "upside down": ((*UNSCORED, "--search=config.penalties.r1=3:1"), "LO is to be less than HI"),
    "no logarithm": ((*UNSCORED, "--search=config.penalties.r1=log:0:1"), "needs LO above 0"),
    "a range of words": ((*UNSCORED, "--search=config.penalties.r1=a:b"), "LO and HI are numbers"),
    "parts": ((*UNSCORED, "--search=config.batch_size=8:16.5"), "whole numbers"),
    "impossible at an end": ((*UNSCORED, "--search=config.batch_size=8:5000"), "is larger than digits"),
    "in the grid, too": ((*SEARCH, "--grid=config.penalties.r1=1,2"), "is there twice"),
    "a target never written": ((*SEARCH, "--target=eval/fid"), "--target='eval/fid' is never logged"),
    "too few trials": ((*SEARCH, "--grid=config.loss=hinge,minimax", "--trials=1"), "the grid's 2 settings"),
    "no trials": ((*SEARCH, "--trials=0"), "trials"),
    "many": ((*SEARCH, "--trials=51", "--seeds=2"), "102 runs are more than 100"),
    "a flag of a search": ((*UNSCORED, "--grid=config.loss=hinge,minimax", "--trials=5"), "--trials is for --search"),
    "no server": ((*SEARCH, "--storage=postgresql+psycopg://127.0.0.1:1/x"), "storage cannot be opened"),
    "no driver": ((*SEARCH, "--storage=mysql+pymysql://x/y"), "needs pymysql, which is missing"),
    "no such URL": ((*SEARCH, "--storage=nothing://x/y"), "storage cannot be opened"),
    "no folder": ((*SEARCH, "--storage=/does/not/exist/log"), "storage cannot be opened"),
    "no SQLite's folder": ((*SEARCH, "--storage=sqlite:////does/not/exist/x.db"), "storage cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command, tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    workdir = tmp_path / "search"
    outcome = command("sweep.py", *arguments, f"--workdir={workdir}")
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert outcome.compilations == 0
    assert not workdir.exists()


def test_another_search_is_refused_before_anything_is_written(command, tmp_path):
    for storage in ((), (f"--storage={tmp_path}/log",)):
        workdir = tmp_path / f"search{len(storage)}"
        words = (*SEARCH, "--trials=2", "--max_seconds=0", *storage)
        assert command("sweep.py", *words, f"--workdir={workdir}").code == 0
        before = (workdir / "sweep.json").read_bytes()
        outcome = command("sweep.py", *words, f"--workdir={workdir}", "--config.num_steps=30")
        assert outcome.code == 2
        assert "holds another sweep" in outcome.err
        assert (workdir / "sweep.json").read_bytes() == before
    elsewhere = tmp_path / "b" / workdir.name
    outcome = command("sweep.py", *words, f"--workdir={elsewhere}", "--config.num_steps=30")
    assert outcome.code == 2
    assert "is another search" in outcome.err
    assert not elsewhere.exists()


@pytest.mark.parametrize("storage", ["sqlite:///{}/study.db", "{}/log"])
def test_a_storage_in_the_folder_of_the_sweep(command, tmp_path, storage):
    workdir = tmp_path / "search"
    place = storage.format(workdir)
    words = (*SEARCH, "--trials=2", "--max_seconds=0", f"--workdir={workdir}")
    for _ in range(2):  # new, and gone on with
        outcome = command("sweep.py", *words, f"--storage={place}")
        assert outcome.code == 0, outcome.err
        assert (workdir / Path(place).name).exists()


@pytest.mark.parametrize("name", ["r?1", "a%20b", "{x}", "plain"])
def test_the_database_is_in_the_folder_whatever_its_name(command, tmp_path, name):
    workdir = tmp_path / name / "search"
    file = workdir / "search.db"
    url = search.sqlite_url(file)
    assert sqlalchemy.make_url(url.format()).database == str(file)
    assert search.storage_file(url) == search.storage_file(f"{url}?timeout=9") == file
    for storage in ((), (f"--storage={url}",)):  # new, and gone on with
        words = (*SEARCH, "--trials=2", "--max_seconds=0", f"--workdir={workdir}", *storage)
        assert command("sweep.py", *words).code == 0
        assert file.exists()
        file.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_what_workers_share_has_a_name(command):
    outcome = command("sweep.py", *SEARCH, "--storage=log")
    assert outcome.code == 2
    assert "--storage needs --workdir" in outcome.err


def test_a_password_is_not_written_down(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--storage=postgresql://me:secret@host/x"])
    command = runs.environment()["command"]
    assert command == ["sweep.py", "--storage=postgresql://me:***@host/x"]


def test_a_search_of_an_older_revision_goes_on(command, tmp_path):
    """Its study's record lacks fields that were added since."""
    words = (*SEARCH, "--trials=2", "--max_seconds=0", f"--workdir={tmp_path}/search")
    assert command("sweep.py", *words).code == 0
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/search.db")
    old = study.user_attrs["sweep"]
    del old["config"]["lazy_every"]
    study.set_user_attr("sweep", old)
    assert command("sweep.py", *words).code == 0
