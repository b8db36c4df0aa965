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
import io
import itertools
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict

import checks
import cli
import outcomes
import population
import runs
import runtime
import scores
import search
import settings
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
    members = []
    seeds = settings.seeds_of(base, SEEDS.value)
    corners = [{**point, **ends} for point in points for ends in ends_of(space)]
    for i, setting in enumerate(corners):
        place = workdir / settings.folder_name(i, setting)
        with settings.naming(setting):
            members += make_runs(base, setting, seeds, place, known)
    settings.check_differ(members)
    target = choose_target(members, TARGET.value)
    sweep = settings.Sweep(base, grid, space, SEEDS.value, target, workdir, known, set())
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
    seeds: Sequence[int],
    folder: Path,
    known: dict[tuple, starts.Prepared],
) -> list[settings.Run]:
    """A setting's runs, everything in them checked.

    Args:
      folder: of theirs.
      known: what configs of the same data are trained with; of this one it is added.
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
    for seed in seeds:
        own = config.copy_and_resolve_references()
        own.seed = seed
        checks.check_values(own)
        found.append(settings.Run(setting, own, folder / f"seed_{seed}", prepared))
    return found


def choose_target(members: Sequence[settings.Run], name: str | None) -> str:
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
    for run in {settings.structure(run): run for run in members}.values():
        config = run.config.copy_and_resolve_references()
        config.target.metric = target
        with settings.naming(run.setting):
            try:
                checks.check_metrics(config, run.prepared.gan, run.prepared.judge)
            except app.UsageError as error:
                words = str(error).replace("target.metric", "--target")
                if not name:
                    words = f"{words}. Choose a --target that all settings have"
                raise app.UsageError(words) from error
    return target


def train_grid(
    sweep: settings.Sweep, members: list[settings.Run], stop: search.Stop
) -> list[outcomes.Outcome]:
    """Trains all runs, those of one structure through one program; what has become of them."""
    settings.check_folder(sweep, runs.RESUMABLE)
    groups = {sweep.workdir / f"group_{i}": g for i, g in enumerate(settings.by_structure(members))}
    ways = train.TOGETHER.value, train.MAX_MEMBERS.value
    for folder, group in groups.items():
        train.go_together(group[0].config, [run.workdir for run in group], folder, *ways)
    settings.remember(sweep)
    print(
        f"{len(members)} runs of {len(groups)} compiled program(s) in {sweep.workdir}", flush=True
    )

    def results() -> list[outcomes.Outcome]:
        return [outcomes.of_run(run) for run in members]

    for folder, group in groups.items():
        if stop():  # before the next one's memory is measured, for which it is compiled
            break
        train_group(sweep, group, folder, *ways, stop, lambda: outcomes.write(sweep, results()))
        outcomes.write(sweep, results(), aloud=True)
    return results()


def hold_programs(sweep: settings.Sweep, run: settings.Run) -> None:
    """Drops all compiled programs where one more structure than HELD is about to be compiled.

    Linux grants a process 65,530 maps; a structure's programs take about 600, and a process that
    gets no more ends without a Python error.
    """
    sweep.compiled.add(settings.structure(run))
    if len(sweep.compiled) > HELD:
        jax.clear_caches()
        sweep.compiled.clear()
        sweep.compiled.add(settings.structure(run))


def train_group(
    sweep: settings.Sweep,
    group: list[settings.Run],
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
    sweep: settings.Sweep, points: list[dict[str, str]], num: int, stop: search.Stop
) -> list[outcomes.Outcome]:
    """Trains what a study asks for, until it has `num` settings; other workers may do the same.

    Args:
      points: of the grid, the study's first settings.
    Returns:
      What has become of the study's runs.
    """
    train.go_together(sweep.base, [], sweep.workdir, train.TOGETHER.value, train.MAX_MEMBERS.value)
    settings.check_folder(sweep)
    place = STORAGE.value or search.sqlite_url(sweep.workdir / "search.db")
    if search.storage_file(place).resolve().parent == sweep.workdir.resolve():
        settings.remember(sweep)  # the storage needs the folder
    space: search.Space = {**sweep.grid, **sweep.space}
    patience = sweep.base.num_steps // 4
    joined = search.Study(
        search.open_storage(place),
        settings.swept(sweep),
        space,
        points,
        num,
        sweep.base.seed,
        LEASE.value,
        patience,
        sweep.workdir,
        settings.differences,
    )
    settings.remember(sweep)
    print(f"{num} settings, {sweep.seeds} run(s) of each, in {sweep.workdir}", flush=True)
    with joined as study:
        while trials := study.take(ASK.value, stop):
            train_asked(sweep, study, trials, stop)
            outcomes.write(sweep, outcomes.of_study(sweep, study))
        results = outcomes.of_study(sweep, study)
        reasons = [result.reason for result in results]
        outcomes.write(sweep, results, aloud=not all(reasons))
        if reasons and all(reasons) and not stop():
            raise app.UsageError(f"no setting could be trained: {reasons[0]}")
    return results


def train_asked(
    sweep: settings.Sweep, study: search.Study, trials: list[search.Trial], stop: search.Stop
) -> None:
    """Trains trials in one program, or one after the other, and tells the study what they gave.

    Those of which another worker trains a run are postponed: this or that one only seemed to be
    dead. Those that a stop has cut are given back.
    """
    members: dict[int, list[settings.Run]] = {}
    for trial in trials:
        folder = sweep.workdir / settings.folder_name(trial.slot, trial.setting)
        seeds = settings.seeds_of(sweep.base, sweep.seeds, trial.draw)
        try:
            members[trial.slot] = make_runs(sweep.base, trial.setting, seeds, folder, sweep.known)
        except app.UsageError as error:  # the ends of what is searched in are not all of it
            study.fail(trial, str(error))
    trials = [trial for trial in trials if trial.slot in members]
    every = [run for trial in trials for run in members[trial.slot]]
    together = [train.trains_together(run.config, train.TOGETHER.value) for run in every]
    if len(every) > 1 and all(together):
        held = False
        for group in settings.by_structure(every):
            if stop():
                break
            begun = begun_together(sweep, group)
            if not begun:  # what has ended otherwise, as alone, stays
                group = [run for run in group if outcomes.of_run(run).state not in outcomes.ENDED]
                begun = begun_together(sweep, group)
            most = None if begun else train.MAX_MEMBERS.value
            try:
                if not begun:  # remains of other programs, and of runs alone
                    for run in group:
                        runs.check_free(run.workdir)
                    for run in group:
                        shutil.rmtree(run.workdir, ignore_errors=True)
                if group:
                    train_group(sweep, group, group_folder(sweep, group), True, most, stop)
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


def group_folder(sweep: settings.Sweep, group: Sequence[settings.Run]) -> Path:
    """Of what the runs of a search that one program trains have together."""
    names = ",".join(str(run.workdir.relative_to(sweep.workdir)) for run in group)
    return sweep.workdir / f"group_{zlib.crc32(names.encode()):08x}"


def begun_together(sweep: settings.Sweep, group: Sequence[settings.Run]) -> bool:
    """Whether such a program has trained just these."""
    return bool(train.begun_parts([run.workdir for run in group], group_folder(sweep, group)))


def train_alone(
    sweep: settings.Sweep,
    study: search.Study,
    trial: search.Trial,
    members: list[settings.Run],
    stop: search.Stop,
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
    sweep: settings.Sweep,
    study: search.Study,
    trial: search.Trial,
    members: list[settings.Run],
    cut: bool,
    pruned: bool = False,
) -> bool:
    """Tells the study the mean over the runs; infinite where one is lost or has no figure.

    Args:
      cut: a trial that is neither at its end nor pruned is to go on later.
    Returns:
      Whether it has ended.
    """
    results = [outcomes.of_run(run) for run in members]
    rows = {result.seed: outcomes.last_figures(result) for result in results if result.rows}
    ended = all(result.state in outcomes.ENDED for result in results)
    if cut and not ended and not pruned:
        return False
    [rank] = outcomes.ranked(sweep, results)
    value, words = math.inf, "lost" if rank.lost else f"no {sweep.target} at its end"
    if rank.mean is not None and rank.num == len(members):
        value = scores.distance_from_best(sweep.target, rank.mean)
        words = f"{sweep.target} = {rank.mean:.4g}"
    short = pruned and not ended
    if not study.tell(trial, None if short else value, rows):
        words = "taken up by another worker, which has thought this one dead"
    elif short:
        words = "pruned"
    print(f"Trial {trial.slot}, {settings.name_of(trial.setting)}: {words}", flush=True)
    return True


if __name__ == "__main__":
    cli.run(main, takes_config=True)
