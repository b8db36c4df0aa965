"""Trains a grid of settings with several seeds each, or searches, and says which is best.

    python sweep.py --config=configs/mnist.py:mescheder --seeds=4 --workdir=runs/losses \\
        --grid=config.loss=hinge,non_saturating --grid=config.penalties.r1=0.1,1,10
    python sweep.py --config=configs/mnist.py:mescheder --trials=20 \\
        --search=config.penalties.r1=log:0.01:10

Every setting and seed is a run as train.py would make it, in a folder of its own. Settings that
differ in numbers alone share one compiled program, and on a GPU or TPU train in it together. The
same command goes on where it has stopped; with --storage it is a worker more on any machine.
sweep.csv has a line a run, sweep.html the curves, the ranking and samples.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until main's own handler: Ctrl-C ends the imports, with no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import copy
import csv
import functools
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from ml_collections import ConfigDict

import checks
import cli
import population
import ranking
import runs
import runtime
import scores
import search
import starts
import train

GRID = flags.DEFINE_multi_string("grid", [], "config.FIELD=VALUE,VALUE,...; several times.")
SEARCH = flags.DEFINE_multi_string(
    "search", [], "config.FIELD=log:LO:HI, =LO:HI or =VALUE,VALUE: what is proposed; several times."
)
SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each setting, from config.seed on.", 1)
TRIALS = flags.DEFINE_integer("trials", None, "Settings of a search, all workers together.", 1)
TARGET = flags.DEFINE_string("target", None, "The metric that ranks; without it the best_metric.")
STORAGE = flags.DEFINE_string(
    "storage", None, "Of what workers share: a database's URL, or a journal file's path."
)
ASK = flags.DEFINE_integer("ask", 1, "Trials that a worker trains at a time.", 1)
PRUNE = flags.DEFINE_bool(
    "prune", None, "End trials that are worse than the median on their way; by default a search's."
)
LEASE = flags.DEFINE_float(
    "lease", 60, "Seconds without a sign after which a worker elsewhere is dead.", 0.1
)
MANY = 100  # runs; more, nobody trains by mistake
HELD = 4  # structures whose compiled programs are kept
YES = flags.DEFINE_bool("yes", False, f"Train more than {MANY} runs.")

USUAL_TRIALS = 50
NOT_OF_A_GRID = {"seed": "--seeds=N", "population": "--seeds=N", "recipe": "--config=FILE:RECIPE"}
# In which workers of a search may differ.
OF_A_MACHINE = (
    "devices",
    "shard_state",
    "stream",
    "stream_workers",
    "data_dir",
    "inception_weights",
)
UNUSUAL = r"[^\w.=,+-]"  # in a folder's name


class Run(NamedTuple):
    """A setting, by its fields and their values as on the command line, and one seed."""

    setting: dict[str, str]
    config: ConfigDict
    workdir: Path
    prepared: starts.Prepared


class Result(NamedTuple):
    """What has become of a run: a line of the table."""

    setting: dict[str, str]
    seed: int
    workdir: Path
    state: str
    rows: list[dict[str, Any]]
    reason: str = ""  # why it has failed


class Sweep(NamedTuple):
    """What the command line asks for, checked.

    Attributes:
      base: the config without grid and search.
      grid: values by field.
      space: what is searched in; empty without a search.
      seeds: of each setting.
      target: the metric that ranks.
      workdir: the sweep's folder.
      known: what configs of the same data are trained with.
      compiled: the structures whose programs are held.
    """

    base: ConfigDict
    grid: dict[str, list[str]]
    space: search.Space
    seeds: int
    target: str
    workdir: Path
    known: dict[tuple, starts.Prepared]
    compiled: set[Any]


def main(argv: list[str]) -> None:
    del argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path's bytes need not be text
    base = flags.FLAGS.config
    if train.INIT_FROM.value or train.DESCRIBE.value or train.PROFILE.value:
        raise app.UsageError("--init_from, --describe and --profile are for train.py")
    if train.joining():
        raise app.UsageError("--distributed and --coordinator are for train.py: see --storage")
    if train.DETERMINISTIC.value:
        runtime.be_deterministic()
    workdir = Path(os.path.expanduser(cli.WORKDIR.value or train.default_workdir(base, "sweep")))
    grid = {k: search.split_values(text) for k, text in read_fields("grid", GRID.value).items()}
    kinds = cli.field_types(base)
    space = {
        field: search.read_range(text, kinds.get(field, float))
        for field, text in read_fields("search", SEARCH.value, grid).items()
    }
    num = check_number(math.prod(map(len, grid.values())), bool(space))
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    known: dict[tuple, starts.Prepared] = {}
    settings = [{**point, **ends} for point in points for ends in ends_of(space)]
    members = []
    for i, setting in enumerate(settings):
        place = workdir / folder_name(i, setting)
        try:
            members += make_runs(base, setting, SEEDS.value, place, known)
        except app.UsageError as error:
            whose = f"{setting_name(setting)}: " if setting else ""
            raise app.UsageError(f"{whose}{error}") from error
    check_differ(members)
    target = choose_target(members, TARGET.value)
    sweep = Sweep(base, grid, space, SEEDS.value, target, workdir, known, set())
    signals = cli.remember_signals()
    stop = train.stopping(signals)
    if space or STORAGE.value:
        results = train_trials(sweep, points, num, stop)
    else:
        results = train_grid(sweep, members, stop)
    if signals:
        raise SystemExit(128 + signals[0])
    if results and not stop() and all(result.state in ("lost", "failed") for result in results):
        raise SystemExit(1)


def check_number(points: int, searching: bool) -> int:
    """How many settings are to be trained.

    Args:
      points: of the grid.
      searching: whether there are more than those.
    Raises:
      app.UsageError: so many that it may be a mistake, or flags that do not fit together.
    """
    of_a_search = {"trials": TRIALS, "ask": ASK, "prune": PRUNE, "lease": LEASE}
    for name, flag in of_a_search.items():
        if flag.present and not (searching or (STORAGE.value and name != "trials")):
            raise app.UsageError(f"--{name} is for --search")
    if STORAGE.value and not cli.WORKDIR.value:
        raise app.UsageError("--storage needs --workdir: its last part names what workers share")
    num = (TRIALS.value or USUAL_TRIALS) if searching else points
    if searching and points > num:
        raise app.UsageError(f"--trials={num} is less than the grid's {points:,} settings")
    if num * SEEDS.value > MANY and not YES.value:
        raise app.UsageError(
            f"{num * SEEDS.value:,} runs are more than {MANY}: --yes trains them all the same"
        )
    return num


def ends_of(space: search.Space) -> list[dict[str, str]]:
    """Settings from which one sees whether those in between are possible."""
    lists = {k: values if isinstance(values, list) else [] for k, values in space.items()}
    for field, values in space.items():
        if isinstance(values, search.Range):
            lists[field] = [values.word(values.low), values.word(values.high)]
    longest = max(map(len, lists.values()), default=1)
    return [
        {k: words[min(i, len(words) - 1)] for k, words in lists.items()} for i in range(longest)
    ]


def read_fields(flag: str, words: Sequence[str], taken: Container[str] = ()) -> dict[str, str]:
    """Fields and the text after them, of words such as config.loss=hinge,non_saturating.

    Raises:
      app.UsageError: a word is no such, or a field is there twice.
    """
    found: dict[str, str] = {}
    for word in words:
        match = re.fullmatch(r"config\.([\w.]+)=(.+)", word)
        if not match:
            raise app.UsageError(f"--{flag}={word}: write config.FIELD=VALUE,VALUE")
        field = match[1]
        if field in NOT_OF_A_GRID:
            raise app.UsageError(f"--{flag}={word}: for that there is {NOT_OF_A_GRID[field]}")
        if field in found or field in taken:
            raise app.UsageError(f"--{flag}={word}: the field is there twice")
        found[field] = match[2]
    return found


def make_runs(
    base: ConfigDict,
    setting: dict[str, str],
    seeds: int,
    folder: Path,
    known: dict[tuple, starts.Prepared],
    first_seed: int = 0,
) -> list[Run]:
    """A setting's runs, everything in them checked.

    Args:
      folder: of theirs.
      known: what configs of the same data are trained with; of this one it is added.
      first_seed: counted from the config's on.
    Raises:
      app.UsageError: one of them is impossible.
    """
    config = copy.deepcopy(base)  # a field of None keeps its type so
    cli.with_overrides(config, [f"--config.{k}={v}" for k, v in setting.items()])
    checks.check_values(config)
    checks.check_use(config, cli.load_page(), [*cli.overrides(), *setting])
    train.trains_together(config, train.TOGETHER.value)
    if not config.log_every:
        raise app.UsageError("log_every is 0: by its last row a sweep knows that a run has ended")
    if config.population > 1 or config.target.metric:
        raise app.UsageError("population and target.metric are not for sweeps: --seeds=N")
    key = tuple(config[field] for field in starts.DATA_FIELDS)
    prepared = known[key] = starts.prepare(config, known.get(key))
    found = []
    for seed in range(config.seed + first_seed, config.seed + first_seed + seeds):
        own = config.copy_and_resolve_references()
        own.seed = seed
        checks.check_values(own)
        found.append(Run(setting, own, folder / f"seed_{seed}", prepared))
    return found


def folder_name(i: int, setting: dict[str, str]) -> str:
    name = ",".join(f"{field}={value}" for field, value in setting.items()) or "as_it_is"
    return f"{i:03}-{re.sub(UNUSUAL, '_', name)[:150]}"


def setting_name(setting: dict[str, str]) -> str:
    return ", ".join(f"{field}={value}" for field, value in setting.items()) or "as it is"


def check_differ(members: Sequence[Run]) -> None:
    """No two runs are the same one, in other words such as 1 and 1.0.

    Raises:
      app.UsageError: two are.
    """
    seen: dict[str, dict[str, str]] = {}
    for run in members:
        config = json.dumps(run.config.to_dict(), sort_keys=True)
        before = seen.setdefault(config, run.setting)
        if before != run.setting:
            names = f"{setting_name(before)} and {setting_name(run.setting)}"
            raise app.UsageError(f"{names} are the same setting")


def choose_target(members: Sequence[Run], name: str | None) -> str:
    """The metric that ranks.

    Raises:
      app.UsageError: a run never writes it.
    """
    first = members[0]
    usual = scores.best_metric(scores.metric_names(first.prepared.judge))
    scored = first.config.best_metric or usual
    every = [run.config.eval_every for run in members]
    has_scores = all(0 < n <= run.config.num_steps for n, run in zip(every, members))
    target = name or (scored if scored and has_scores else "train/g_loss")
    for run in {structure(run): run for run in members}.values():
        config = run.config.copy_and_resolve_references()
        config.target.metric = target
        try:
            checks.check_metrics(config, run.prepared.gan, run.prepared.judge)
        except app.UsageError as error:
            words = str(error).replace("target.metric", "--target")
            if not name:
                words = f"{words}. Choose a --target that all settings have"
            whose = f"{setting_name(run.setting)}: " if run.setting else ""
            raise app.UsageError(f"{whose}{words}") from error
    return target


def swept(sweep: Sweep) -> dict[str, Any]:
    """What makes a sweep this one, as JSON has it."""
    config = without(OF_A_MACHINE, runs.flatten(sweep.base.to_dict()))
    found = {"config": config, "grid": sweep.grid, "seeds": sweep.seeds}
    if sweep.space:
        found |= {"search": sweep.space, "target": sweep.target}
    return json.loads(json.dumps(found))


def without(fields: Sequence[str], config: dict[str, Any]) -> dict[str, Any]:
    """A config by dotted names, but for those fields and what is in them."""
    return {name: value for name, value in config.items() if name.split(".")[0] not in fields}


def differences(
    before: dict[str, Any], now: dict[str, Any], resumable: Sequence[str] = ()
) -> list[str]:
    """Why what was swept is not this sweep, in words; empty where it is.

    Args:
      before: `swept` of this revision or an older one, which lacks fields, and has a machine's.
      now: `swept`.
      resumable: fields that may be others than before.
    """
    free = [*OF_A_MACHINE, *resumable]
    old, new = (
        {f"config.{k}": v for k, v in without(free, runs.completed(each["config"])).items()}
        | {f"--{key}": value for key, value in each.items() if key != "config"}
        for each in (before, now)
    )
    found = [
        f"{name} ({old.get(name)} there, {new.get(name)} now)"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]
    # Folders have their names, and states their places, by the order of the fields.
    orders = [[list(each.get(key, {})) for key in ("grid", "search")] for each in (before, now)]
    if not found and orders[0] != orders[1]:
        found.append(f"fields in another order ({', '.join([*orders[0][0], *orders[0][1]])} there)")
    return found


def check_folder(sweep: Sweep, resumable: Sequence[str] = ()) -> None:
    """Holds what is swept against what has begun in its folder; writes nothing.

    Args:
      resumable: fields that may be others than there.
    Raises:
      app.UsageError: another sweep has.
    """
    workdir, now = sweep.workdir, swept(sweep)
    file = workdir / "sweep.json"
    try:
        if file.exists():
            before = json.loads(file.read_text())
            if changed := differences(before, now, resumable):
                raise app.UsageError(
                    f"workdir {workdir} holds another sweep: {', '.join(changed)}. "
                    "Go on with its own command, or choose another --workdir"
                )
        elif workdir.exists() and any(p for p in workdir.iterdir() if "sweep.json" not in p.name):
            raise app.UsageError(f"workdir {workdir} is not empty, and holds no sweep")
    except OSError as error:
        raise app.UsageError(f"workdir {workdir}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise app.UsageError(f"workdir {workdir}: {file} is damaged: {error}") from error


def remember(sweep: Sweep) -> None:
    """Writes down what is swept.

    Raises:
      app.UsageError: the folder cannot be made.
      OSError: the disk is full.
    """
    try:
        sweep.workdir.mkdir(parents=True, exist_ok=True)
        runs.replace(sweep.workdir / "sweep.json", json.dumps(swept(sweep), indent=2) + "\n")
    except OSError as error:
        if error.errno in runs.DISK_IS_FULL:
            raise
        raise app.UsageError(f"workdir {sweep.workdir}: {error.strerror}") from error


def train_grid(sweep: Sweep, members: list[Run], stop: search.Stop) -> list[Result]:
    """Trains all runs, those of one structure through one program; what has become of them."""
    check_folder(sweep, runs.RESUMABLE)
    groups = {sweep.workdir / f"group_{i}": g for i, g in enumerate(by_structure(members))}
    ways = train.TOGETHER.value, train.MAX_MEMBERS.value
    for folder, group in groups.items():
        train.go_together(group[0].config, [run.workdir for run in group], folder, *ways)
    remember(sweep)
    print(
        f"{len(members)} runs of {len(groups)} compiled program(s) in {sweep.workdir}", flush=True
    )

    def trained() -> None:
        write(sweep, [result_of(run) for run in members])

    for folder, group in groups.items():
        if stop():  # before the next one's memory is measured, for which it is compiled
            break
        train_group(sweep, group, folder, *ways, stop, trained)
        write(sweep, [result_of(run) for run in members], aloud=True)
    return [result_of(run) for run in members]


def by_structure(members: Sequence[Run]) -> list[list[Run]]:
    """Those that one compiled program can train, together."""
    groups: dict[Any, list[Run]] = {}
    for run in members:
        groups.setdefault(structure(run), []).append(run)
    return list(groups.values())


def structure(run: Run) -> Any:
    return population.structure(run.prepared.gan, run.config)


def hold_programs(sweep: Sweep, run: Run) -> None:
    """Drops all compiled programs where one more structure than HELD is about to be compiled.

    Linux grants a process 65,530 maps; a structure's programs take about 600, and a process that
    gets no more ends without a Python error.
    """
    sweep.compiled.add(structure(run))
    if len(sweep.compiled) > HELD:
        jax.clear_caches()
        sweep.compiled.clear()
        sweep.compiled.add(structure(run))


def train_group(
    sweep: Sweep,
    group: list[Run],
    folder: Path,
    together: bool | None,
    max_members: int | None,
    stop: search.Stop,
    trained: Callable[[], None] = lambda: None,
) -> None:
    """Trains runs of one structure; the arguments are those of `train.train_members`."""
    hold_programs(sweep, group[0])
    train.train_members(
        [run.config for run in group],
        [run.workdir for run in group],
        folder,
        stop=stop,
        together=together,
        max_members=max_members,
        prepared=group[0].prepared,
        trained=trained,
    )


def train_trials(
    sweep: Sweep, points: list[dict[str, str]], num: int, stop: search.Stop
) -> list[Result]:
    """Trains what a study asks for, until it has `num` settings; other workers may do the same.

    Args:
      points: of the grid, the study's first settings.
    Returns:
      What has become of the study's runs.
    """
    train.go_together(sweep.base, [], sweep.workdir, train.TOGETHER.value, train.MAX_MEMBERS.value)
    check_folder(sweep)
    place = STORAGE.value or search.sqlite_url(sweep.workdir / "search.db")
    if search.storage_file(place).resolve().parent == sweep.workdir.resolve():
        remember(sweep)  # the storage needs the folder
    space: search.Space = {**sweep.grid, **sweep.space}
    patience = sweep.base.num_steps // 4
    joined = search.Study(
        search.open_storage(place),
        swept(sweep),
        space,
        points,
        num,
        sweep.base.seed,
        LEASE.value,
        patience,
        sweep.workdir,
        differences,
    )
    remember(sweep)
    print(f"{num} settings, {sweep.seeds} run(s) of each, in {sweep.workdir}", flush=True)
    with joined as study:
        while trials := study.take(ASK.value, stop):
            train_asked(sweep, study, trials, stop)
            write(sweep, results_of(sweep, study))
        results = results_of(sweep, study)
        reasons = [result.reason for result in results]
        write(sweep, results, aloud=not all(reasons))
        if reasons and all(reasons) and not stop():
            raise app.UsageError(f"no setting could be trained: {reasons[0]}")
    return results


def train_asked(
    sweep: Sweep, study: search.Study, trials: list[search.Trial], stop: search.Stop
) -> None:
    """Trains trials in one program, or one after the other, and tells the study what they gave.

    Those of which another worker trains a run are postponed: this or that one only seemed to be
    dead. Those that a stop has cut are given back.
    """
    members: dict[int, list[Run]] = {}
    for trial in trials:
        folder = sweep.workdir / folder_name(trial.slot, trial.setting)
        first_seed = trial.draw * sweep.seeds
        try:
            members[trial.slot] = make_runs(
                sweep.base, trial.setting, sweep.seeds, folder, sweep.known, first_seed
            )
        except app.UsageError as error:  # the ends of what is searched in are not all of it
            study.fail(trial, str(error))
    trials = [trial for trial in trials if trial.slot in members]
    every = [run for trial in trials for run in members[trial.slot]]
    if len(every) > 1 and train.trains_together(every[0].config, train.TOGETHER.value):
        held = False
        for group in by_structure(every):
            if stop():
                break
            names = ",".join(str(run.workdir.relative_to(sweep.workdir)) for run in group)
            folder = sweep.workdir / f"group_{zlib.crc32(names.encode()):08x}"
            most = None if folder.exists() else train.MAX_MEMBERS.value
            try:
                if not folder.exists():  # remains of a worker that had other runs together
                    for run in group:
                        runs.check_free(run.workdir)
                    for run in group:
                        shutil.rmtree(run.workdir, ignore_errors=True)
                train_group(sweep, group, folder, True, most, stop)
            except runs.InUse as error:
                held = True
                print(f"Later: {error}", flush=True)
        cut = [
            trial
            for trial in trials
            if not end_trial(sweep, study, trial, members[trial.slot], held or stop())
        ]
        if held:
            study.postpone(cut)
        else:
            for trial in cut:
                study.give_back(trial)
    else:
        for trial in trials:
            held = pruned = False
            try:
                pruned = train_alone(sweep, study, trial, members[trial.slot], stop)
            except runs.InUse as error:
                held = True
                print(f"Later: {error}", flush=True)
            if end_trial(sweep, study, trial, members[trial.slot], held or stop(), pruned):
                continue
            if held:
                study.postpone([trial])
            else:
                study.give_back(trial)


def train_alone(
    sweep: Sweep, study: search.Study, trial: search.Trial, members: list[Run], stop: search.Stop
) -> bool:
    """A trial's runs, one after the other; whether it is pruned, and the rest of them left out."""
    pruned, steps_before = False, 0
    prune = bool(sweep.space) if PRUNE.value is None else PRUNE.value
    reported: set[int] = set()

    def report(row: dict[str, Any]) -> bool:
        value, step = row.get(sweep.target), steps_before + row["step"]
        if not prune or value is None or step in reported or population.is_lost(row):
            return False
        reported.add(step)
        return study.report(trial, step, scores.distance_from_best(sweep.target, value))

    def watch(row: dict[str, Any]) -> bool:
        nonlocal pruned
        pruned |= report(row)
        return pruned or population.is_lost(row)

    hold_programs(sweep, members[0])
    for run in members:
        if stop() or pruned:
            break
        rows = [row for row in runs.read_metrics(run.workdir) if row.get(sweep.target) is not None]
        answers = [report(row) for row in rows]  # an attempt before this one has left them
        pruned = any(answers[-1:])
        kept = (run.workdir / "checkpoints").exists()
        if kept or not (pruned or starts.has_ended(run.workdir, run.config)):
            train.train_together(
                [run.config], [run.workdir], run.workdir, None, stop, None, watch, run.prepared
            )
        steps_before += run.config.num_steps
    return pruned


def end_trial(
    sweep: Sweep,
    study: search.Study,
    trial: search.Trial,
    members: list[Run],
    cut: bool,
    pruned: bool = False,
) -> bool:
    """Tells the study the mean over the runs; infinite where one is lost or has no figure.

    Args:
      cut: a trial that is neither at its end nor pruned is to go on later.
    Returns:
      Whether it has ended.
    """
    results = [result_of(run) for run in members]
    rows = {result.seed: last_figures(result) for result in results if result.rows}
    ended = all(result.state in ("done", "lost") for result in results)
    if cut and not ended and not pruned:
        return False
    [rank] = rank_results(sweep, results)
    value, words = math.inf, "lost" if rank.lost else f"no {sweep.target} at its end"
    if rank.mean is not None and rank.num == len(members):
        value = scores.distance_from_best(sweep.target, rank.mean)
        words = f"{sweep.target} = {rank.mean:.4g}"
    short = pruned and not ended
    if not study.tell(trial, None if short else value, rows):
        words = "taken up by another worker, which has thought this one dead"
    elif short:
        words = "pruned"
    print(f"Trial {trial.slot}, {setting_name(trial.setting)}: {words}", flush=True)
    return True


def result_of(run: Run) -> Result:
    """What its folder says."""
    rows = runs.read_metrics(run.workdir)
    state = "running" if rows else "not begun"
    if rows and population.is_lost(rows[-1]):
        state = "lost"
    elif rows and rows[-1]["step"] >= run.config.num_steps:
        state = "done"
    return Result(run.setting, run.config.seed, run.workdir, state, rows)


def results_of(sweep: Sweep, study: search.Study) -> list[Result]:
    """Of all runs that the study knows of; of those of other machines the last row alone."""
    results = []
    for found in study.found():
        folder = sweep.workdir / folder_name(found.slot, found.setting)
        first = sweep.base.seed + found.draw * sweep.seeds
        for seed in range(first, first + sweep.seeds):
            rows = runs.read_metrics(folder / f"seed_{seed}")
            told = found.rows.get(seed)
            if told and (not rows or rows[-1]["step"] < told["step"]):
                rows = [told]
            lost = not found.reason and rows and population.is_lost(rows[-1])
            state = "lost" if lost else found.state
            place = folder / f"seed_{seed}"
            results.append(Result(found.setting, seed, place, state, rows, found.reason))
    return results


def rank_results(sweep: Sweep, results: Sequence[Result]) -> list[ranking.Rank]:
    distance = functools.partial(scores.distance_from_best, sweep.target)
    return ranking.rank(curves_of(results), sweep.target, distance)


def curves_of(results: Sequence[Result]) -> dict[str, list[ranking.Curve]]:
    """By setting."""
    curves: dict[str, list[ranking.Curve]] = {}
    for result in results:
        pruned = result.state == "pruned"
        unfinished = result.state in ("running", "not begun")
        curve = ranking.Curve(result.workdir, result.rows, pruned, result.reason, unfinished)
        curves.setdefault(setting_name(result.setting), []).append(curve)
    return curves


def write(sweep: Sweep, results: Sequence[Result], aloud: bool = False) -> None:
    """sweep.csv and sweep.html, of what there is so far; the ranking on the screen, too."""
    if not results:
        return
    lines = [table_row(sweep.workdir, result) for result in results]
    table = io.StringIO()
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    runs.replace(sweep.workdir / "sweep.csv", table.getvalue())
    ranked = rank_results(sweep, results)
    if aloud:
        print(ranking.ranking_text(ranked, sweep.target), flush=True)
    searched = [
        ranking.Searched(
            field,
            values.log,
            {setting_name(r.setting): float(r.setting[field]) for r in results},
        )
        for field, values in sweep.space.items()
        if isinstance(values, search.Range)
    ]
    curves = curves_of(results)
    page = ranking.sweep_page(sweep.workdir.name, curves, ranked, sweep.target, searched)
    runs.replace(sweep.workdir / "sweep.html", page)


def table_row(workdir: Path, result: Result) -> dict[str, Any]:
    """A run's line of sweep.csv, with its last row of metrics.jsonl and its last scores."""
    where = {"run": str(result.workdir.relative_to(workdir)), "state": result.state}
    reason = {"reason": result.reason} if result.reason else {}
    return {**where, **result.setting, "seed": result.seed, **last_figures(result), **reason}


def last_figures(result: Result) -> dict[str, Any]:
    """The last row of metrics.jsonl, with what it lacks from those before, the last scores."""
    scored = ranking.last_evaluation(result.rows)
    return {
        name: value
        for row in result.rows
        for name, value in row.items()
        if name != "alarms" and (row is scored or not name.startswith("eval/"))
    }


if __name__ == "__main__":
    cli.run(main, takes_config=True)
