"""How a run begins: everything checked, its folder made or opened, its state restored or drawn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from jax.sharding import Mesh
from ml_collections import ConfigDict

import checks
import data
import devices
import gan as gans
import hosts
import population
import runs
import scores
from checkpoints import Checkpoints
from population import State

NUM_SAMPLES = 100  # of a picture
STEPS_PER_CALL = 50  # where loops gain; half of log_every, so that every call has as many
LONG_STEP = 2e9  # parameters times examples: a step of so many takes longer than a call does
# Folded into the state's key, of which step k takes number k: steps, int32, never reach these.
ORDER_KEY, PICTURE_KEY, ROLLBACK_KEY = 2**32 - 1, 2**32 - 2, 2**32 - 4
ROLLBACK_RATE = 0.5  # times the learning rates, at every rollback
NOT_FINITE = "not_finite"  # a folder for the state in which a run has stopped

# What data and scores depend on.
DATA_FIELDS = (
    "dataset",
    "data_dir",
    "resolution",
    "stream",
    "conditional",
    "eval_samples",
    "eval_features",
    "inception_weights",
)


class Prepared(NamedTuple):
    """What a config is trained with."""

    dataset: data.Dataset
    gan: gans.Gan
    judge: scores.Judge


def prepare(config: ConfigDict, known: Prepared | None = None) -> Prepared:
    """The data set, GAN and judge of a config, everything in it checked, nothing compiled.

    Args:
      config: see configs/default.py.
      known: of another config with the same DATA_FIELDS; what they say is not read again.
    Raises:
      app.UsageError: in one line, what is impossible.
    """
    checks.check_values(config)
    checks.check_devices(config)
    dataset = known.dataset if known else data.load(config)
    checks.check_labels(config, dataset)
    gan = gans.make_gan(config, dataset.spec)
    checks.check_fit(config, gan, dataset)
    judge = known.judge if known else scores.make_judge(config, dataset)
    checks.check_metrics(config, gan, judge)
    return Prepared(dataset, gan, judge)


class Member(NamedTuple):
    """What a run has of its own, where several train together."""

    config: ConfigDict
    workdir: Path
    checkpoints: Checkpoints
    log: runs.Rows
    order_key: jax.Array
    indices: Callable[[int | Sequence[int]], np.ndarray]
    latents: jax.Array
    picture_key: jax.Array
    eval_key: jax.Array
    best_metric: str | None


class Training(NamedTuple):
    """What `begin` makes: all that the loop needs, the folders open and locked."""

    prepared: Prepared
    checkpoints: Checkpoints
    mesh: Mesh
    state: State
    members: list[Member]
    resuming: bool
    rollbacks: int
    locks: list[IO]


def begin(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Path],
    folder: Path,
    init_from: Path | None,
    profile: Path | None,
    prepared: Prepared | None,
    rollbacks: int = 0,
) -> Training:
    """Everything checked, then the folders made or opened, and the states restored or drawn.

    Arguments and errors are those of `train_together`.
    """
    with hosts.agreed():
        resuming = [runs.check(*run, init_from) for run in zip(workdirs, configs)]
        prepared = prepared or prepare(configs[0])
        alike = hashes(configs[0], prepared.dataset) if jax.process_count() > 1 else {}
    hosts.check_same(alike)
    dataset, gan, _ = prepared
    checkpoints = Checkpoints(folder, configs[0].checkpoint_every, configs[0].checkpoints_kept)
    with hosts.agreed():
        latest = checkpoints.latest_step(due=rollbacks > 0) if hosts.is_first() else None
    latest = json.loads(hosts.tell(json.dumps(latest))[0])
    restoring = latest is not None
    with hosts.agreed():
        if restoring:
            hosts.wait_until((folder / "checkpoints" / str(latest)).exists, folder)
        if not restoring and any(map(has_ended, workdirs, configs)):
            raise app.UsageError(
                f"{folder} was trained to step {configs[0].num_steps:,} and has no checkpoint to "
                "go on from: choose another --workdir"
            )
        if resuming[0]:
            init_from = runs.first_weights(workdirs[0]) or init_from
        abstract_state = gans.abstract_state(gan, configs[0])
        donor = read_donor(init_from, abstract_state) if init_from and not restoring else None
        if configs[0].steps_per_call is None:  # of one structure: of them all
            configs = [config.copy_and_resolve_references() for config in configs]
            for config, workdir, begun in zip(configs, workdirs, resuming):
                stored = runs.read_config(workdir).get("steps_per_call", 1) if begun else None
                config.steps_per_call = stored or steps_per_call(gan, abstract_state)
        if profile:
            make_folder(profile)
    hosts.check_same({"init_from": hash_of(donor)})
    mesh = devices.make_mesh(configs[0].devices)
    if len(configs) > 1:
        mesh = population.make_mesh(len(configs), mesh)
        places = population.shardings(mesh)
    else:
        places = devices.shardings(mesh, abstract_state, configs[0].shard_state)

    def draw() -> State:
        states = [gans.init(gan, config, jax.random.key(config.seed)) for config in configs]
        if donor:
            states = [with_networks(state, donor) for state in states]
        return states[0] if len(states) == 1 else population.stack(states)

    state, locks = None, []
    with hosts.agreed():
        if restoring:
            state = checkpoints.restore(jax.eval_shape(draw), latest, places)
    with hosts.agreed():
        if hosts.is_first():
            locks = [
                runs.create(*run, dataset.facts, init_from)
                for run in zip(workdirs, configs, resuming)
            ]
            checkpoints.set_aside(-1 if latest is None else latest, again=rollbacks > 0)
    there = json.loads(hosts.tell(json.dumps(checkpoints.committed()))[0])
    with hosts.agreed():
        if not hosts.is_first():
            hosts.wait_until((folder / "config.json").exists, folder)
            hosts.wait_until(lambda: checkpoints.committed() == there, folder)
            checkpoints.reload()
    if configs[0].shard_state:  # one device may be too small for all of it
        draw = jax.jit(draw, out_shardings=places)
    state = state or draw()
    notes = []
    if isinstance(state, gans.GanState):
        before = count_rollbacks(state, configs[0])
        if rollbacks > before:
            state = roll_back(state, before, rollbacks)
            notes = [f"rolled back to step {int(state.step):,}: {rollbacks} time(s) so far"]
        rollbacks = max(rollbacks, before)
    state = devices.place(state, places)
    if donor and configs[0].checkpoint_every:
        checkpoints.save(0, state)  # a resume does not name the donor again
    shared = checkpoints if workdirs[0] == folder else None
    members = [
        open_member(prepared, *run, population.member(state, i).key, int(state.step), shared, notes)
        for i, run in enumerate(zip(configs, workdirs))
    ]
    return Training(prepared, checkpoints, mesh, state, members, resuming[0], rollbacks, locks)


def open_member(
    prepared: Prepared,
    config: ConfigDict,
    workdir: Path,
    key: jax.Array,
    step: int,
    checkpoints: Checkpoints | None,
    notes: list[str],
) -> Member:
    """A run's log, order and keys; its best state so far is found.

    Args:
      prepared: what all have.
      config, workdir, key: the run's own; the key is its state's.
      step: from which all go on, also one that is frozen at an earlier one.
      checkpoints: in its folder; None: opened here, as the program's are in another.
      notes: for its log.
    """
    dataset, gan, judge = prepared
    log = runs.Log if hosts.is_first() else runs.Rows
    order_key, picture_key, eval_key = (
        jax.random.fold_in(key, number) for number in (ORDER_KEY, PICTURE_KEY, scores.EVAL_KEY)
    )
    labels = dataset.labels if config.balanced else None
    if checkpoints is None:
        checkpoints = Checkpoints(workdir)
        checkpoints.set_aside(step)
    member = Member(
        config,
        workdir,
        checkpoints,
        log(workdir, last_step(workdir, config, step), notes),
        order_key,
        data.make_indices(order_key, len(dataset.images), gans.batch_shape(gan), labels),
        gans.draw_latents(gan, picture_key, NUM_SAMPLES),
        picture_key,
        eval_key,
        config.best_metric or scores.best_metric(scores.metric_names(judge)),
    )
    find_best(member)
    return member


def has_ended(workdir: Path, config: ConfigDict) -> bool:
    """Whether there is a run whose rows go to the config's last step, and are finite there."""
    last = runs.read_metrics(workdir)[-1:]
    return any(row["step"] >= config.num_steps and not population.is_lost(row) for row in last)


def steps_per_call(gan: gans.Gan, state: gans.GanState) -> int:
    """What the platform gains by, for these networks; 1 of long steps, so that stops are prompt."""
    players = state.generator.params, state.discriminator.params
    size = sum(leaf.size for leaf in jax.tree.leaves(players))
    long = size * gan.batch_size >= LONG_STEP
    return STEPS_PER_CALL if gans.loops_gain(state) and not long else 1


def hashes(config: ConfigDict, dataset: data.Dataset) -> dict[str, str]:
    """Of what processes that train one run have to have alike."""
    settings: Any = config.to_dict()
    for place in ("data_dir", "inception_weights"):  # each machine's own
        settings.pop(place)
    images, labels = dataset.images, dataset.labels
    if dataset.streamed:  # some of them: each is decoded for it
        images = images[np.random.default_rng(0).integers(len(images), size=NUM_SAMPLES)]
    return {
        "config": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "data set": hash_of([np.array(list(dataset.spec.shape)), images, labels]),
        "version of JAX": jax.__version__,
    }


def hash_of(arrays: Any) -> str:
    """Of the bytes of a tree of arrays."""
    digest = hashlib.sha256()
    for array in jax.tree.leaves(arrays):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def last_step(workdir: Path, config: ConfigDict, step: int) -> int:
    """Up to which a run that goes on from `step` keeps its rows: all, if it stopped at a NaN.

    It has where nothing is to be tried, or no more than was before that stop.
    """
    rows, place = runs.read_metrics(workdir), workdir / NOT_FINITE
    kept = (place / "config.json").exists()  # the last that such a stop writes
    if not (kept and rows and population.is_lost(rows[-1])):
        return step
    to_try = config.max_rollbacks if config.on_nan == "rollback" else 0
    return step if to_try > tried_rollbacks(workdir) else max(step, rows[-1]["step"])


def tried_rollbacks(workdir: Path) -> int:
    """How many came before a stop at numbers that are not finite."""
    before = runs.completed(runs.flatten(runs.read_config(workdir / NOT_FINITE)))
    return before["max_rollbacks"] if before["on_nan"] == "rollback" else 0


def find_best(member: Member) -> None:
    """Tells the checkpoints which of them is the best so far."""
    member.checkpoints.best_step = scores.best_step(member.log.rows, member.best_metric)


def count_rollbacks(state: gans.GanState, config: ConfigDict) -> int:
    """How many a state has had, from its learning rate: they need no place of their own in it."""
    rate = float(state.hparams["generator"]["learning_rate"])
    usual = float(np.float32(config.optimizer.generator.learning_rate))
    return round(math.log(rate / usual, ROLLBACK_RATE))


def roll_back(state: gans.GanState, before: int, rollbacks: int) -> gans.GanState:
    """A good state with smaller learning rates, and other latents and examples from here on."""
    hparams = dict(state.hparams, end=dict(state.hparams["end"]))
    for numbers in (hparams, hparams["end"]):
        for player in ("generator", "discriminator"):
            rate = numbers[player]["learning_rate"] * ROLLBACK_RATE ** (rollbacks - before)
            numbers[player] = {**numbers[player], "learning_rate": rate}
    key = jax.random.fold_in(jax.random.fold_in(state.key, ROLLBACK_KEY), rollbacks)
    return state.replace(hparams=hparams, key=key)


def make_folder(profile: Path) -> None:
    """Raises app.UsageError where there can be no such folder."""
    try:
        profile.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise app.UsageError(f"profile {profile}: {error.strerror}") from error


def read_donor(workdir: Path, abstract_state: gans.GanState) -> dict[str, Any]:
    """Another run's latest state, as `runs.read_networks` has it.

    Raises:
      app.UsageError: there is none, or its networks are not those of `abstract_state`.
    """
    donor = runs.read_networks(workdir)
    for player in ("generator", "discriminator", "average"):
        ours = getattr(abstract_state, player)
        network = {"params": ours.params, "variables": ours.variables}
        theirs = {kind: donor[player][kind] for kind in network}
        if jax.tree.map(jnp.shape, network) != jax.tree.map(jnp.shape, theirs):
            raise app.UsageError(f"init_from: the {player} of {workdir} is another network")
    return donor


def with_networks(state: gans.GanState, donor: dict[str, Any]) -> gans.GanState:
    """A state whose networks and average have the numbers of a donor (`read_donor`)."""
    replaced = {}
    for player in ("generator", "discriminator", "average"):
        numbers = {kind: jax.device_put(donor[player][kind]) for kind in ("params", "variables")}
        replaced[player] = getattr(state, player).replace(**numbers)
    return state.replace(**replaced)


def close(training: Training) -> None:
    """Waits for what is being written: for all of it, whatever cannot be."""
    with contextlib.ExitStack() as last_to_first:
        for lock in training.locks:
            last_to_first.enter_context(lock)
        last_to_first.callback(training.checkpoints.close)
        for member in training.members:
            if member.checkpoints is not training.checkpoints:
                last_to_first.callback(member.checkpoints.close)
            last_to_first.callback(member.log.close)
