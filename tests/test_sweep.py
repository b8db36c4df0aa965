"""A sweep: its runs are train.py's, it goes on where it was killed, and its page says which is best."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import app
from conftest import ROOT
from PIL import Image

import outcomes
import ranking
import runs
import search
import settings
import sweep
import train

SMALL = {
    "batch_size": 8,
    "num_steps": 20,
    "log_every": 5,
    "sample_every": 20,
    "checkpoint_every": 10,
    "eval_every": 20,
    "eval_samples": 50,
    "generator.width": 8,
    "discriminator.width": 8,
}
PAGE = "--config=configs/digits.py:mescheder"
GRID = (
    "--grid=config.loss=hinge,non_saturating",
    "--grid=config.optimizer.generator.learning_rate=1e-3,1e30",
    "--seeds=2",
)
WORDS = [PAGE, *(f"--config.{name}={value}" for name, value in SMALL.items())]

UNSCORED = [word for word in WORDS if "eval_" not in word] + ["--config.eval_every=0"]


def rows_of(workdir):
    rows = runs.read_metrics(workdir)
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def table(workdir):
    with (workdir / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory):
    """A sweep of two losses, a rate that works, and one that does not, with two seeds each."""
    workdir = tmp_path_factory.mktemp("sweep") / "sweep"
    words = [sys.executable, "sweep.py", *WORDS, *GRID, f"--workdir={workdir}"]
    outcome = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    return workdir, outcome.stdout


def test_every_run_is_in_the_table(finished_sweep):
    workdir, printed = finished_sweep
    rows = table(workdir)
    assert len(rows) == 8
    assert "8 runs of 2 compiled program(s)" in printed
    assert [row["seed"] for row in rows] == ["0", "1"] * 4
    for row in rows:
        wild = row["optimizer.generator.learning_rate"] == "1e30"
        assert row["state"] == ("lost" if wild else "done")
        assert row["step"] == ("5" if wild else "20")
        assert (workdir / row["run"] / "report.html").exists()
        config = runs.read_config(workdir / row["run"])
        assert config["loss"] == row["loss"]
        assert config["seed"] == int(row["seed"])
        last = runs.read_metrics(workdir / row["run"])[-1]
        if not wild:
            assert float(row["eval/fd_classifier"]) == last["eval/fd_classifier"]


def test_a_run_is_that_of_train_py(finished_sweep, make_config, tmp_path, command):
    workdir, _ = finished_sweep
    row = next(r for r in table(workdir) if r["loss"] == "non_saturating" and r["seed"] == "1")
    config = make_config("configs/digits.py:mescheder", SMALL | {"seed": 1})
    train.train_and_evaluate(config, tmp_path)
    assert json.loads((workdir / row["run"] / "config.json").read_text()) == json.loads(
        (tmp_path / "config.json").read_text()
    )
    ours, theirs = rows_of(workdir / row["run"]), rows_of(tmp_path)
    for one, other in zip(ours, theirs, strict=True):  # another process: other settings of XLA
        assert one == pytest.approx(other, rel=0.05, abs=0.05)
    outcome = command("evaluate.py", f"--workdir={workdir / row['run']}", "--json")
    assert outcome.code == 0
    scored = json.loads(outcome.out.splitlines()[-1])["eval/fd_classifier"]
    assert scored == pytest.approx(float(row["eval/fd_classifier"]), rel=1e-3)


def test_the_page_ranks_and_shows(finished_sweep):
    workdir, printed = finished_sweep
    page = (workdir / "sweep.html").read_text()
    values = {}
    for row in table(workdir):
        if row["state"] == "done":
            values.setdefault(row["loss"], []).append(float(row["eval/fd_classifier"]))
    best = min(values, key=lambda loss: np.mean(values[loss]))
    lines = [line for line in printed.splitlines() if "learning_rate=" in line and "loss=" in line]
    ranked = [line for line in lines if not line.startswith(("Training", " ", "Step", "/"))][-4:]
    assert ranked[0].startswith(f"loss={best}, optimizer.generator.learning_rate=1e-3")
    mean, deviation, least = (float(x) for x in ranked[0].split()[-7:-4])
    assert mean == pytest.approx(np.mean(values[best]), rel=1e-3)
    assert deviation == pytest.approx(np.std(values[best], ddof=1), rel=1e-3)
    assert least == pytest.approx(min(values[best]), rel=1e-3)
    assert [line.split()[-7:] for line in ranked[2:]] == [[*"---0200"]] * 2
    assert page.count("<img ") == 2  # of the settings that have a best run
    assert page.count("<svg ") == 3
    assert page.count("<polyline ") == page.count("<circle ") == 3 * 2
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"\bnan\b", page)


@pytest.mark.slow
def test_killed_and_started_again(tmp_path, finished_sweep):
    """SIGKILL in the middle: the same command ends with the runs of a sweep that was not killed."""
    words = [sys.executable, "sweep.py", *WORDS, *GRID, f"--workdir={tmp_path}/sweep"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("sweep/002*/seed_1/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole, _ = finished_sweep
    for one, other in zip(table(whole), table(tmp_path / "sweep"), strict=True):
        assert {**one, "seconds": ""} == {**other, "seconds": ""}
        assert rows_of(whole / one["run"]) == rows_of(tmp_path / "sweep" / one["run"])


def test_together_is_the_same_but_for_rounding(command, tmp_path):
    words = [*UNSCORED, "--grid=config.penalties.r1=1,3", "--seeds=2"]
    for how in ("--together", "--notogether"):
        outcome = command("sweep.py", *words, how, f"--workdir={tmp_path / how}")
        assert outcome.code == 0, outcome.err
        assert "4 runs of 1 compiled program(s)" in outcome.out
    for one, other in zip(*(table(tmp_path / how) for how in ("--together", "--notogether"))):
        assert one["run"] == other["run"]
        first = [rows_of(tmp_path / how / one["run"])[0] for how in ("--together", "--notogether")]
        assert first[0] == pytest.approx(first[1], rel=0.02, abs=0.02)


def test_members_of_a_structure_share_a_program(command, tmp_path):
    before = train.train_steps._cache_size()
    words = [*UNSCORED, "--config.generator.width=11"]
    words += ["--grid=config.penalties.r1=1,3", "--seeds=3", "--notogether"]
    assert command("sweep.py", *words, f"--workdir={tmp_path}/x").code == 0
    assert train.train_steps._cache_size() - before <= 2  # a call of fewer steps is a second one


MISTAKES = {
    "no field": (("--grid=config.losss=hinge",), "did you mean loss?"),
    "no form": (("--grid=loss=hinge",), "write config.FIELD=VALUE,VALUE"),
    "no value": (("--grid=config.loss=hinge,",), "is there twice, or empty"),
    "a value twice": (("--grid=config.loss=hinge,hinge",), "is there twice, or empty"),
    "a field twice": (("--grid=config.loss=hinge", "--grid=config.loss=minimax"), "is there twice"),
    "wrong type": (("--grid=config.batch_size=8,x",), "takes int, not 'x'"),
    "impossible": (("--grid=config.loss=hinge,hing",), "loss='hing' does not exist"),
    "useless": (("--grid=config.lazy_every=1,2", "--config.penalties.r1=0"), "does nothing here"),
    "does not fit": (("--grid=config.batch_size=8,5000",), "is larger than digits"),
    "seeds as a field": (("--grid=config.seed=1,2",), "for that there is --seeds=N"),
    "a population": (("--config.population=2",), "not for sweeps"),
    "a flag of one run": (("--describe",), "are for train.py"),
    "no seed": (("--seeds=0",), "seeds"),
    "members of no program": (("--notogether", "--max_members=2"), "--max_members does nothing where runs train alone"),
    "no rows": (("--config.log_every=0",), "log_every is 0: by its last row"),
    "many": (("--seeds=101",), "101 runs are more than 100: --yes trains them all the same"),
    "very many": (
        [f"--grid=config.{x}={','.join(map(str, range(1, 1000)))}" for x in ("batch_size", "packing", "width")],
        "997,002,999 runs are more than 100",
    ),
    "one setting twice": (("--grid=config.penalties.r1=1,1.0",), "r1=1 and penalties.r1=1.0 are the same setting"),
    "a process of several": (("--distributed",), "are for train.py"),
    "a target of some": (
        ("--grid=config.penalties.r1=1,0", "--target=train/r1"), "--target='train/r1' is never logged",
    ),
    "a target too late": (
        ("--target=eval/fd_classifier", "--config.eval_every=30", "--config.num_steps=20"),
        "--target='eval/fd_classifier' is never logged: eval_every is 30, num_steps 20",
    ),
    "a target never written": (("--target=eval/fid",), "--target='eval/fid' is never logged"),
    "a target without scores": (("--target=eval/fd_classifier", "--config.eval_every=0"), "never logged"),
}  # fmt: skip


def test_a_field_of_none_is_swept(command, tmp_path):
    words = [*UNSCORED, "--grid=config.ema_half_life_end=1,2", "--config.decay_images=100"]
    outcome = command("sweep.py", *words, f"--workdir={tmp_path / 'sweep'}")
    assert outcome.code == 0, outcome.err
    lines = table(tmp_path / "sweep")
    assert [line["ema_half_life_end"] for line in lines] == ["1", "2"]
    ends = [
        runs.read_config(tmp_path / "sweep" / line["run"])["ema_half_life_end"] for line in lines
    ]
    assert ends == [1.0, 2.0]


@pytest.mark.slow
def test_programs_of_structures_that_are_done_go(command, tmp_path, monkeypatch):
    """They would fill the maps that Linux grants a process, in which it ends without a word."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list them")
    monkeypatch.setattr(sweep, "HELD", 1)
    train_members, found = train.train_members, []

    def counted(*args, **words):
        found.append(len(maps.read_text().splitlines()))
        train_members(*args, **words)

    monkeypatch.setattr(train, "train_members", counted)
    words = [*UNSCORED, "--grid=config.generator.width=8,16,24,32", f"--workdir={tmp_path}/sweep"]
    assert command("sweep.py", *words).code == 0
    assert len(found) == 4
    assert max(found[1:]) < found[0] + 200


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command, tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    workdir = tmp_path / "sweep"
    outcome = command("sweep.py", PAGE, f"--workdir={workdir}", *arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert outcome.compilations == 0
    assert not workdir.exists()


def test_a_mistake_names_its_setting(command, tmp_path):
    words = [*UNSCORED, "--search=config.learning_rate=log:1e-4:1e-2", f"--workdir={tmp_path}/x"]
    assert "learning_rate: the config has no such field" in command("sweep.py", *words).err
    words = [*UNSCORED, "--grid=config.loss=hinge,non_saturating", f"--workdir={tmp_path}/sweep"]
    outcome = command("sweep.py", *words, "--grid=config.batch_size=8,5000")
    assert "sweep.py: loss=hinge, batch_size=5000: batch_size=5000 is larger than" in outcome.err
    words = [*WORDS, f"--workdir={tmp_path}/sweep"]
    outcome = command("sweep.py", *words, "--grid=config.dataset=digits,ring")
    assert "sweep.py: dataset=ring: " in outcome.err
    assert "Choose a --target that all settings have" in outcome.err


@pytest.mark.slow
def test_all_are_lost(command, tmp_path):
    rates = "--grid=config.optimizer.generator.learning_rate=1e25,1e30"
    for how in ("--together", "--notogether"):
        outcome = command("sweep.py", *UNSCORED, rates, how, f"--workdir={tmp_path}/{how}")
        assert outcome.code == 1, outcome.err
        assert [row["state"] for row in table(tmp_path / how)] == ["lost", "lost"]


def test_the_table_grows_with_each_run(command, tmp_path, monkeypatch):
    """Where runs train alone; and one that is yet to come makes its setting unfinished."""
    train_together, found = train.train_together, []

    def look(configs, workdirs, *rest, **words):
        if (tmp_path / "sweep/sweep.csv").exists():
            found.append([row["state"] for row in table(tmp_path / "sweep")])
        return train_together(configs, workdirs, *rest, **words)

    monkeypatch.setattr(train, "train_together", look)
    words = [*UNSCORED, "--grid=config.penalties.r1=1,2,3", f"--workdir={tmp_path}/sweep"]
    assert command("sweep.py", *words, "--notogether").code == 0
    assert found == [["done", "not begun", "not begun"], ["done", "done", "not begun"]]


def test_how_runs_have_begun_is_asked_before_a_file_changes(command, tmp_path):
    words = [*UNSCORED, "--grid=config.penalties.r1=1,2", f"--workdir={tmp_path}/sweep"]
    assert command("sweep.py", *words, "--together").code == 0
    before = (tmp_path / "sweep/sweep.json").read_text()
    outcome = command("sweep.py", *words, "--config.num_steps=30", "--notogether")
    assert outcome.code == 2
    assert "have begun together, and go on so" in outcome.err
    assert (tmp_path / "sweep/sweep.json").read_text() == before


def test_a_sweep_is_no_run(command, finished_sweep):
    workdir, _ = finished_sweep
    outcome = command("train.py", *WORDS, f"--workdir={workdir}")
    assert outcome.code == 2
    assert f"workdir {workdir} holds a sweep" in outcome.err
    [setting, *_, end] = sorted(workdir.glob("00*"))
    for place, last in ((workdir, f"{end}/seed_1\n"), (setting, f"{setting}/seed_1\n")):
        outcome = command("evaluate.py", f"--workdir={place}")
        assert outcome.code == 2
        assert f"{place} holds several runs: choose one of {setting}/seed_0, " in outcome.err
        assert last in outcome.err


def test_a_folder_of_something_else_is_left_untouched(command, tmp_path, finished_sweep):
    workdir, _ = finished_sweep
    before = (workdir / "sweep.json").read_bytes()
    outcome = command("sweep.py", *WORDS, *GRID, "--seeds=3", f"--workdir={workdir}")
    assert outcome.code == 2
    assert f"{workdir} holds another sweep: --seeds (2 there, 3 now). Go on with" in outcome.err
    outcome = command("sweep.py", *WORDS, *reversed(GRID), f"--workdir={workdir}")
    assert "fields in another order (loss, optimizer.generator.learning_rate there)" in outcome.err
    outcome = command("sweep.py", *WORDS, *GRID, "--config.latent_dim=9", f"--workdir={workdir}")
    assert "another sweep: config.latent_dim (" in outcome.err
    assert (workdir / "sweep.json").read_bytes() == before
    (tmp_path / "file").touch()
    outcome = command("sweep.py", *WORDS, *GRID, f"--workdir={tmp_path}")
    assert outcome.code == 2
    assert "is not empty, and holds no sweep" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_has_its_own_places(tmp_path, make_config):
    """Where data and weights lie is no part of what a sweep is, nor of what its runs are."""

    def swept(config):
        return settings.swept(
            settings.Sweep(config, {}, {}, 1, "train/g_loss", tmp_path, {}, set())
        )

    here = make_config("configs/mnist.py", {"data_dir": "/a", "inception_weights": "/a/weights"})
    there = make_config("configs/mnist.py", {"data_dir": "/b", "inception_weights": "/b/weights"})
    assert swept(here) == swept(there)
    assert swept(here) != swept(make_config("configs/mnist.py", {"batch_size": 8}))
    runs.create(tmp_path / "run", here, resuming=False).close()
    assert runs.check(tmp_path / "run", there)


def test_a_sweep_of_an_older_revision_is_the_same(tmp_path, make_config):
    """It lacks fields that were added since, and had some that are a machine's."""
    config = make_config("configs/mnist.py", {"data_dir": "/a"})
    found = settings.Sweep(config, {}, {}, 2, "train/g_loss", tmp_path, {}, set())
    settings.remember(found)
    file = tmp_path / "sweep.json"
    now = json.loads(file.read_text())
    old = {k: v for k, v in now["config"].items() if k != "lazy_every"} | {"data_dir": "/b"}
    file.write_text(json.dumps(now | {"config": old}))
    settings.check_folder(found)
    for other in ({"lazy_every": 4}, {"batch_size": 7}, {"generator.width": 3}, {"no_field": 1}):
        file.write_text(json.dumps(now | {"config": old | other}))
        with pytest.raises(app.UsageError, match="holds another sweep"):
            settings.check_folder(found)
    file.write_text(json.dumps(now | {"seeds": 3}))
    with pytest.raises(app.UsageError, match="holds another sweep"):
        settings.check_folder(found, runs.RESUMABLE)
    file.write_text(json.dumps(now | {"config": old | {"num_steps": 7}}))
    settings.check_folder(found, runs.RESUMABLE)
    for damaged in ("{", "[]", "{}", '{"config": 3}'):
        file.write_text(damaged)
        with pytest.raises(app.UsageError, match="sweep.json is damaged"):
            settings.check_folder(found)


def test_a_grid_in_another_order_is_another_sweep(tmp_path, make_config):
    """Its folders have other names, and what trains together has other places."""
    grid = {"loss": ["hinge"], "penalties.r1": ["1", "3"]}
    space = {"beta": search.Range(0.0, 1.0, False, False), "width": ["8", "16"]}
    config = make_config()
    one = settings.Sweep(config, grid, space, 1, "train/g_loss", tmp_path, {}, set())
    settings.remember(one)
    settings.check_folder(one)
    for other in (
        one._replace(grid=dict(reversed(grid.items()))),
        one._replace(space=dict(reversed(space.items()))),
    ):
        with pytest.raises(app.UsageError, match="holds another sweep"):
            settings.check_folder(other)


def test_a_folder_whose_name_is_no_text_is_swept(command, tmp_path, monkeypatch):
    folders = [tmp_path / os.fsdecode(name) for name in (b"\xfe", b"\xff")]
    for folder in folders:
        folder.mkdir()
        for i in range(8):
            Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    monkeypatch.setattr(train, "train_members", lambda *args, **words: None)
    grid = f"--grid=config.dataset={','.join(f'folder:{folder}' for folder in folders)}"
    outcome = command("sweep.py", *UNSCORED, grid, f"--workdir={tmp_path}/sweep")
    assert outcome.code == 0, outcome.err
    assert f"dataset=folder:{tmp_path}/? " in outcome.out.splitlines()[-1]
    assert [row["dataset"] for row in table(tmp_path / "sweep")] == [f"folder:{tmp_path}/?"] * 2


@pytest.mark.parametrize("target", ["train/g_loss", "eval/fid"])
def test_a_ranking_without_a_score_says_so(tmp_path, target):
    rows = [{"step": 1, "images": 1, "seconds": 1, target: 2.0}]
    curves = {"a": [ranking.Curve(tmp_path, rows)]}
    ranked = ranking.rank(curves, target, abs)
    words = f"Ranked by {target}, no score, which says little of quality"
    for shown in (
        ranking.ranking_text(ranked, target),
        ranking.sweep_page("x", curves, ranked, target),
    ):
        assert (words in shown) == (target == "train/g_loss")


def test_a_tuple_is_one_value():
    assert search.split_values("(64,32),(32,16)") == ["(64,32)", "(32,16)"]
    assert search.split_values("hinge") == ["hinge"]


def test_a_rank_is_by_the_last_value_of_runs_that_are_not_lost(tmp_path):
    def curve(name, *values):
        rows = [{"step": i, "images": i, "seconds": i, "x": v} for i, v in enumerate(values)]
        return ranking.Curve(tmp_path / name, rows)

    lost = curve("c", 0.1)
    lost.rows.append({"step": 9, "images": 9, "seconds": 9, "train/d_loss": None})
    curves = {
        "a": [curve("a", 1.0, 4.0), curve("b", 9.0, 6.0)],
        "b": [lost, curve("d", 3.0, None)],
        "c": [curve("e"), curve("f", 0.0)._replace(pruned=True)],
    }
    found = ranking.rank(curves, "x", lambda value: value)
    assert [r.setting for r in found] == ["a", "b", "c"]
    assert found[0][1:] == (5.0, pytest.approx(2**0.5), 4.0, tmp_path / "a", 2, 0, 0, 0, "")
    assert found[1][1:] == (3.0, None, 3.0, tmp_path / "d", 1, 1, 0, 0, "")
    assert found[2][1:] == (None, None, None, None, 0, 0, 1, 0, "")
    curves["d"] = [curve("g", 2.0)]
    assert [r.setting for r in ranking.rank(curves, "x", lambda v: -v)] == ["a", "d", "b", "c"]


def test_a_setting_that_is_unfinished_comes_after_those_that_are_done(tmp_path):
    def curve(name, value, unfinished=False):
        rows = [{"step": 1, "images": 1, "seconds": 1, "eval/num_samples": 9, "eval/fid": value}]
        return ranking.Curve(tmp_path / name, rows, unfinished=unfinished)

    curves = {
        "going": [curve("a", 1.0), curve("b", 2.0, unfinished=True)],
        "done": [curve("c", 3.0), curve("d", 5.0)],
        "not begun": [ranking.Curve(tmp_path / "e", [], unfinished=True)],
    }
    found = ranking.rank(curves, "eval/fid", float)
    assert [(r.setting, r.mean, r.unfinished) for r in found] == [
        ("done", 4.0, 0), ("going", 1.5, 1), ("not begun", None, 1),
    ]  # fmt: skip
    [_, done, going, _] = ranking.ranking_text(found, "eval/fid").splitlines()
    assert done.split()[-1] == "0"
    assert going.split()[-1] == "1"


def test_a_last_evaluation_without_the_target_gives_no_older_one(tmp_path):
    """No point is near a mode any more, or samples are not finite; rows between say nothing of it."""
    good = {"step": 1, "eval/num_samples": 50, "eval/mode_kl": 0.1}
    bad = {"step": 2, "eval/num_samples": 0}
    between = {"step": 3, "train/g_loss": 1.0}
    curves = {
        "a": [ranking.Curve(tmp_path / "a", [good, bad, between])],
        "b": [ranking.Curve(tmp_path / "b", [bad, {**good, "step": 3}, {**between, "step": 4}])],
    }
    found = ranking.rank(curves, "eval/mode_kl", abs)
    assert [(r.setting, r.mean) for r in found] == [("b", 0.1), ("a", None)]
    outcome = outcomes.Outcome({}, 0, tmp_path, "done", [good, bad, between])
    assert outcomes.last_figures(outcome) == {"step": 3, "eval/num_samples": 0, "train/g_loss": 1.0}
