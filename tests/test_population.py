"""Runs that train together: they agree with the same runs alone, and one that is lost is frozen."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import app

import batches
import cli
import data
import devices
import gan as gans
import population
import progress
import runs
import starts
import train

SMALL = {
    "batch_size": 8,
    "num_steps": 20,
    "log_every": 5,
    "sample_every": 10,
    "checkpoint_every": 10,
    "eval_every": 0,
    "generator.width": 8,
    "discriminator.width": 8,
}
RTOL = 1e-4  # of a step together beside a step alone


def assert_close(ours, theirs, rtol=RTOL):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())


def assert_equal(ours, theirs):
    assert_close(ours, theirs, rtol=0)


def rows_of(workdir):
    rows = runs.read_metrics(workdir)
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def start(make_config, recipe, **changes):
    """Configs of three members that differ by seed and numbers, their GAN, states and examples."""
    config = make_config(f"configs/digits.py:{recipe}", SMALL | changes)
    configs = [config.copy_and_resolve_references() for _ in range(3)]
    for i, member in enumerate(configs):
        member.seed = i
        member.optimizer.generator.learning_rate *= 1 + i
    dataset, gan, _ = starts.prepare(config)
    states = [gans.init(gan, c, jax.random.key(c.seed)) for c in configs]
    examples = {"images": dataset.images, "labels": dataset.labels}
    orders = [
        data.make_indices(state.key, len(dataset.images), gans.batch_shape(gan), None)
        for state in states
    ]
    return configs, gan, states, examples, orders


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("goodfellow", {}),
        ("mescheder", {"lazy_every": 2}),
        ("dcgan", {"conditional": True, "generator.condition": "concat"}),
    ],
    ids=["goodfellow", "lazy", "labels"],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_members_agree_with_the_same_runs_alone(make_config, recipe, changes, steps):
    """A call of one step, and one that is a loop; the second step, of two, within 10 times more."""
    _, gan, states, examples, orders = start(make_config, recipe, **changes)
    alone = [jax.tree.map(jnp.copy, state) for state in states]
    together = population.stack(states)
    rows = np.stack([order(range(steps)) for order in orders])
    together, metrics = train.train_steps(gan, together, data.take(examples, rows))
    assert int(together.step) == steps
    for i, state in enumerate(alone):
        state, own = train.train_steps(gan, state, data.take(examples, rows[i]))
        # Adam's first step is nearly the gradient's sign: what is nearly 0 may go either way.
        assert_close({name: x[i] for name, x in metrics.items()}, own, 10 * RTOL)
        member = population.member(together, i)
        assert_close(member.hparams, state.hparams, 0)
        first = jax.tree.map(
            lambda x, y: jnp.mean(jnp.abs(x - y)), member.generator.params, state.generator.params
        )
        rate = float(state.hparams["generator"]["learning_rate"])
        assert max(map(float, jax.tree.leaves(first))) < 0.01 * steps * rate


def test_what_is_drawn_ahead_is_what_is_asked_for():
    """Steps that follow, fewer of them, and others, as after a return to a checkpoint."""
    images = np.arange(40).reshape(40, 1)
    orders, again = (
        [data.make_indices(jax.random.key(seed), 40, (2, 1, 3)) for seed in range(2)]
        for _ in range(2)
    )
    read = batches.gathering(
        {"images": images}, orders, population.make_mesh(2, devices.make_mesh(1)), True
    )
    for steps in (range(3), [3, 4, 5], [6, 6, 6], [7, 8, 9], [2, 3, 4], [5, 6, 7], [8]):
        expected = np.stack([indices(steps) for indices in again])
        np.testing.assert_array_equal(read(steps)["images"], images[expected])


def test_a_member_that_is_lost_is_frozen(make_config):
    """Its last finite state stays, as long as it may be; the others are as if it were not there."""
    _, gan, states, examples, orders = start(make_config, "goodfellow")
    wild = states[1].hparams["generator"] | {"learning_rate": jnp.float32(1e30)}
    states[1] = states[1].replace(hparams=states[1].hparams | {"generator": wild})
    together = population.stack(states)
    assert population.going(together) == [0, 1, 2]
    last = None
    for k in range(8):
        before = jax.tree.map(jnp.copy, together)
        rows = np.stack([order([k]) for order in orders])
        together, metrics = train.train_steps(gan, together, data.take(examples, rows))
        if last is None and 1 not in population.going(together):
            last = population.member(before, 1)
            assert not all(np.isfinite(x[1]) for x in metrics.values())
    assert last is not None
    assert population.going(together) == [0, 2]
    assert_equal(population.member(together, 1), last)
    assert int(last.step) < int(population.member(together, 0).step) == 8
    assert np.asarray(together.frozen).tolist() == [-1, int(last.step), -1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.generator))

    tame = population.stack(
        [gans.init(gan, c, jax.random.key(c.seed)) for c in start(make_config, "goodfellow")[0]]
    )
    for k in range(8):
        rows = np.stack([order([k]) for order in orders])
        tame, _ = train.train_steps(gan, tame, data.take(examples, rows))
    for i in (0, 2):
        assert_equal(population.member(together, i), population.member(tame, i))


def test_more_members_are_no_larger_program(make_config):
    """Of perceptrons: the same is traced, and as many instructions are compiled, but for copies."""
    _, gan, states, _, _ = start(make_config, "goodfellow")
    traced, compiled = [], []
    for num in (2, 8):
        stacked = jax.eval_shape(lambda num=num: population.stack(states[:1] * num))
        batches = jax.tree.map(
            lambda x, num=num: jax.ShapeDtypeStruct((num, 2, *x.shape), x.dtype),
            gans.abstract_batch(gan),
        )
        lowered = train.train_steps.lower(gan, stacked, batches)
        traced.append(lowered.as_text().count("\n"))
        compiled.append(lowered.compile().as_text().count(" = "))
    assert traced[0] == traced[1] > 100
    assert compiled[1] == pytest.approx(compiled[0], rel=0.02)


def test_members_are_spread_over_devices(make_config, every_device):
    """Four members on four devices have one each, and the bits of an unsharded population."""
    _, gan, states, examples, orders = start(make_config, "goodfellow")
    states.append(gans.init(gan, start(make_config, "goodfellow")[0][0], jax.random.key(9)))
    rows = np.stack([order([0]) for order in [*orders, orders[0]]])
    whole = population.stack([jax.tree.map(jnp.copy, state) for state in states])
    mesh = population.make_mesh(4, devices.make_mesh())
    assert mesh.size == 4
    spread = jax.device_put(population.stack(states), population.shardings(mesh))
    whole, _ = train.train_steps(gan, whole, data.take(examples, rows))
    spread, _ = train.train_steps(gan, spread, data.take(examples, rows))
    kernel = spread.states.generator.params["Dense_0"]["kernel"]
    assert [shard.data.shape[0] for shard in kernel.addressable_shards] == [1] * 4
    assert_close(spread.states.replace(key=None), whole.states.replace(key=None))
    for members, used in ((3, 3), (6, 6), (9, 3), (11, 1), (16, 8)):
        assert population.make_mesh(members, devices.make_mesh()).size == used


def test_what_is_a_number_of_the_state_is_no_structure(make_config):
    """Field by field: what `hyper_parameters` holds, and the seed, makes no other program."""
    page = "configs/digits.py:r3gan"
    usual = make_config(page, {"d_augment.cutout": 0.5, "weight_clip": 0.1})
    _, gan, _ = starts.prepare(usual)
    structure = population.structure(gan, usual)
    traced = 0
    for field, kind in cli.field_types(usual).items():
        value = operator.attrgetter(field)(usual)
        if kind not in (int, float) or value is None or field == "population":
            continue
        changed = make_config(page, {"d_augment.cutout": 0.5, "weight_clip": 0.1})
        changed.update_from_flattened_dict({field: value + kind(1)})
        other = gans.make_gan(changed, data.load(usual).spec)
        numbers = [gans.hyper_parameters(gan, config) for config in (usual, changed)]
        is_number = jax.tree.leaves(numbers[0]) != jax.tree.leaves(numbers[1]) and other == gan
        off = field.startswith(("penalties.", "optimizer.")) and other == gan
        same = population.structure(other, changed) == structure
        assert same == (is_number or off or field == "seed"), field
        traced += is_number
    assert traced > 10


def test_mean_and_spread():
    def row(step, loss, **more):
        return {"step": step, "images": 8 * step, "seconds": loss, "train/d_loss": loss} | more

    first = [row(1, 1.0), row(2, 4.0, **{"eval/fd": 1.0, "eval/floor_fd": 0.5})]
    second = [row(1, 3.0), row(2, None)]
    second[1]["seconds"] = 9.0
    third = [row(1, 5.0, alarms=["x"])]
    found = population.mean_and_spread([first, second, third])
    assert found[0] == {
        "step": 1,
        "images": 8,
        "seconds": 5.0,
        "members": 3,
        "train/d_loss": 3.0,
        "train/d_loss_std": 2.0,
    }
    assert found[1]["members"] == 1  # a lost one has no say
    assert found[1]["eval/fd"] == 1.0
    assert "eval/fd_std" not in found[1]


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_a_population_that_was_stopped_ends_with_the_same_bits(make_config, tmp_path, together):
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 3, "seed": 5})
    for name, last in (("whole", -1), ("cut", 2), ("cut", -1)):
        asked = map(last.__eq__, itertools.count())
        stop = functools.partial(next, asked)
        train.train_population(config, tmp_path / name, stop=stop, together=together)
    for seed in (5, 6, 7):
        whole, cut = (tmp_path / name / f"seed_{seed}" for name in ("whole", "cut"))
        assert rows_of(whole) == rows_of(cut)
        assert [row["step"] for row in rows_of(cut)] == [5, 10, 15, 20]
        picture = "samples/step_00000020.png"
        assert (whole / picture).read_bytes() == (cut / picture).read_bytes()
        assert_equal(runs.read_networks(whole), runs.read_networks(cut))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    assert rows_of(tmp_path / "cut")[-1]["members"] == 3


def test_a_run_of_a_population_is_the_run_alone(make_config, tmp_path):
    """To the bit where they run one by one; together its losses begin as alone."""
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 2})
    train.train_population(config, tmp_path / "apart")
    train.train_population(config, tmp_path / "together", together=True)
    config.population, config.seed = 1, 1
    train.train_and_evaluate(config, tmp_path / "alone")
    assert rows_of(tmp_path / "apart/seed_1") == rows_of(tmp_path / "alone")
    assert_equal(*map(runs.read_networks, (tmp_path / "apart/seed_1", tmp_path / "alone")))
    pair = rows_of(tmp_path / "together/seed_1")[0], rows_of(tmp_path / "alone")[0]
    assert pair[0]["train/d_loss"] == pytest.approx(pair[1]["train/d_loss"], rel=0.01)
    stored = [
        json.loads((tmp_path / x / "config.json").read_text()) for x in ("apart/seed_1", "alone")
    ]
    assert stored[0] == stored[1]


def test_a_lost_run_of_a_population_ends_and_the_others_go_on(make_config, tmp_path):
    config = make_config("configs/digits.py:mescheder", SMALL)
    configs = [config.copy_and_resolve_references() for _ in range(3)]
    for i, member in enumerate(configs):
        member.seed = i
    configs[1].optimizer.generator.learning_rate = 1e30
    for together in (False, True):
        folder = tmp_path / str(together)
        places = [folder / str(i) for i in range(3)]
        for _ in range(2):  # a second start changes nothing
            train.train_members(configs, places, folder, together=together)
            assert [row["step"] for row in rows_of(places[0])] == [5, 10, 15, 20]
            assert population.is_lost(rows_of(places[1])[-1])
            assert [row["step"] for row in rows_of(places[1])] == [5]
        if together:  # its last finite state; alone it is that of a checkpoint, had there been one
            saved = runs.read_networks(places[1])
            assert saved["step"] < 5
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved["average"]))
        else:
            assert (places[1] / "not_finite" / "checkpoints" / "10").is_dir()  # a call later


def test_one_is_lost_between_two_rows(make_config, tmp_path):
    """Its later calls begin where it was frozen, and may be finite: it is lost all the same."""
    small = SMALL | {"steps_per_call": 3, "num_steps": 8, "log_every": 4, "checkpoint_every": 4}
    config = make_config("configs/digits.py:mescheder", small)
    configs = [config.copy_and_resolve_references() for _ in range(3)]
    for i, member in enumerate(configs):
        member.seed = i
    configs[1].optimizer.generator.learning_rate = 1e30  # lost in the three steps of the first call
    places = [tmp_path / str(i) for i in range(3)]
    train.train_members(configs, places, tmp_path, together=True)
    for place in (places[0], places[2]):
        assert [row["step"] for row in rows_of(place)] == [4, 8]
        assert not any(map(population.is_lost, rows_of(place)))
    [row] = rows_of(places[1])
    assert row["step"] == 4
    assert all(value is None for name, value in row.items() if name.startswith("train/"))
    assert runs.read_networks(places[1])["step"] == 0


def test_where_all_are_lost_a_second_start_trains_no_more(make_config, tmp_path, capsys):
    changes = SMALL | {"population": 2, "optimizer.generator.learning_rate": 1e30}
    config = make_config("configs/digits.py:mescheder", changes)
    for _ in range(2):
        train.train_population(config, tmp_path, together=True)
        for i in range(2):
            assert [row["step"] for row in rows_of(tmp_path / f"seed_{i}")] == [5]
    assert "from step 10\n" in capsys.readouterr().out  # a call after the row


def test_what_a_kill_has_left_out_of_the_members_folders_is_saved(make_config, tmp_path):
    """It had come between their common checkpoint and their own."""
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 2})
    train.train_population(config, tmp_path, together=True)
    there = runs.read_networks(tmp_path / "seed_1")
    for i in range(2):
        shutil.rmtree(tmp_path / f"seed_{i}" / "checkpoints")
    train.train_population(config, tmp_path, together=True)
    assert_equal(runs.read_networks(tmp_path / "seed_1")["average"], there["average"])


def test_one_that_is_left_over_is_a_run_alone(make_config, tmp_path, capsys):
    """Of three, two to a program: what is not finite is kept, and a second start stays at that."""
    changes = SMALL | {"population": 3, "optimizer.generator.learning_rate": 1e30}
    config = make_config("configs/digits.py:mescheder", changes)
    for _ in range(2):
        train.train_population(config, tmp_path, together=True, max_members=2)
        assert (tmp_path / "seed_0" / "not_finite").is_dir()  # parts are of one and of two
        assert [row["step"] for row in rows_of(tmp_path / "seed_0")] == [5]
    assert "has stopped at numbers that are not finite" in capsys.readouterr().err


def test_a_resume_need_not_name_the_donor_again(make_config, tmp_path, monkeypatch):
    """Members that have not begun begin with its weights, too."""
    donors = []
    monkeypatch.setattr(train, "train_members", lambda *given: donors.append(given[3]))
    monkeypatch.setattr(progress, "write_page", lambda *_: None)
    monkeypatch.setattr(progress.CommonLog, "complete", lambda *_: None)
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 2})
    for init_from in (tmp_path / "donor", None):
        train.train_population(config, tmp_path / "run", init_from)
    assert donors == [tmp_path / "donor"] * 2


@pytest.mark.slow
def test_a_refused_command_leaves_the_folder_as_it_was(make_config, tmp_path):
    """It has begun one after the other; and a part too large for memory is divided before a row."""
    changes = SMALL | {"population": 4, "num_steps": 2, "log_every": 1, "checkpoint_every": 1}
    config = make_config("configs/digits.py:mescheder", changes)
    train.train_population(config, tmp_path / "alone", together=False)
    before = (tmp_path / "alone/config.json").read_text(), os.listdir(tmp_path / "alone")
    longer = make_config("configs/digits.py:mescheder", changes | {"num_steps": 3})
    for ways in ({"together": True}, {"max_members": 2}):
        with pytest.raises(app.UsageError, match=r"have begun one after|does nothing where"):
            train.train_population(longer, tmp_path / "alone", **ways)
    after = (tmp_path / "alone/config.json").read_text(), os.listdir(tmp_path / "alone")
    assert before == after

    (tmp_path / "many/from_0").mkdir(parents=True)  # as of a start that came to nothing
    train.train_population(config, tmp_path / "many", together=True, max_members=2)
    assert {path.name for path in (tmp_path / "many").glob("from_*")} == {"from_0", "from_2"}
    with pytest.raises(app.UsageError, match="have begun 2 together, and go on so, without"):
        train.train_population(longer, tmp_path / "many", max_members=1)
    train.train_population(longer, tmp_path / "many", max_members=2)
    assert runs.read_metrics(tmp_path / "many/seed_3")[-1]["step"] == 3


def test_a_start_that_came_to_nothing_says_nothing_of_how_runs_have_begun(make_config, tmp_path):
    """Nor does a lack of checkpoints say that they have not begun."""
    changes = SMALL | {"population": 2, "num_steps": 2, "log_every": 1, "checkpoint_every": 0}
    config = make_config("configs/digits.py:mescheder", changes)
    (tmp_path / "from_0").mkdir(parents=True)  # killed while it compiled
    train.train_population(config, tmp_path, together=False)
    assert not (tmp_path / "from_0").exists()
    config.num_steps = 3
    with pytest.raises(app.UsageError, match="have begun one after the other, and go on so"):
        train.train_population(config, tmp_path, together=True)


def test_all_are_lost(make_config, tmp_path, command):
    """As a run alone would: exit code 1; and a mean that is none is not named."""
    words = [f"--config.{field}={value}" for field, value in SMALL.items()]
    words += ["--config.population=2", "--config.num_steps=4", "--config.log_every=2"]
    words += ["--config.optimizer.generator.learning_rate=1e30", f"--workdir={tmp_path}"]
    outcome = command("train.py", "--config=configs/digits.py:mescheder", *words)
    assert outcome.code == 1
    assert outcome.out.endswith("No run has finite numbers any more\n")


@pytest.mark.parametrize("together", [False, True])
def test_what_is_over_and_has_no_checkpoint_is_not_trained_again(make_config, tmp_path, together):
    changes = {"population": 2, "num_steps": 5, "checkpoint_every": 0, "sample_every": 0}
    config = make_config(changes=SMALL | changes)
    logs = [tmp_path / f"seed_{i}" / "metrics.jsonl" for i in range(2)]
    times = []
    for _ in range(2):
        train.train_population(config, tmp_path, together=together)
        times.append([log.stat().st_mtime_ns for log in logs])
    assert times[0] == times[1]


def test_mean_and_spread_are_written_as_they_come(make_config, tmp_path):
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 2})
    seen = []

    def stop():
        seen.append([row["step"] for row in rows_of(tmp_path)])
        return False

    def expected():
        return population.mean_and_spread(
            [runs.read_metrics(tmp_path / f"seed_{i}") for i in (0, 1)]
        )

    train.train_population(config, tmp_path, stop=stop, together=True)
    assert [5, 10] in seen
    assert runs.read_metrics(tmp_path) == expected()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]))  # as by a kill
    config.num_steps = 30
    train.train_population(config, tmp_path, together=True)
    assert [row["step"] for row in rows_of(tmp_path)] == [5, 10, 15, 20, 25, 30]
    assert runs.read_metrics(tmp_path) == expected()


def test_programs_hold_so_many_members(make_config, tmp_path):
    config = make_config("configs/digits.py:mescheder", SMALL | {"population": 5})
    train.train_population(config, tmp_path, together=True, max_members=2)
    assert sorted(path.name for path in tmp_path.glob("from_*")) == ["from_0", "from_1", "from_3"]
    assert rows_of(tmp_path)[-1]["members"] == 5


def test_programs_are_few_and_no_device_has_too_many():
    assert population.firsts(10, 4, 9) == [0, 8]  # two on each of four, then one on each of two
    assert population.firsts(3, 8, 1) == [0]
    assert population.firsts(5, 1, 2) == [0, 1, 3]
    for num, num_devices, on_each in itertools.product(range(1, 40), range(1, 9), range(1, 6)):
        firsts = population.firsts(num, num_devices, on_each)
        sizes = np.diff([*firsts, num])
        assert firsts[0] == 0
        assert min(sizes) > 0
        *whole, last = sizes
        assert not any(size % num_devices for size in whole)
        assert last % num_devices == 0 or last < num_devices
        assert max(sizes) <= num_devices * on_each
        assert len(sizes) <= -(-num // (num_devices * on_each)) + 1


def test_what_fits_into_memory_is_counted(make_config):
    """At least the state before and after; twice the width, more than twice of it."""
    sizes = []
    for width in (64, 128):
        config = make_config("configs/digits.py:mescheder", SMALL | {"generator.width": width})
        _, gan, _ = starts.prepare(config)
        state = jax.eval_shape(lambda gan=gan, c=config: gans.init(gan, c, jax.random.key(0)))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        sizes.append(population.member_memory(gan, config, 1))
        assert sizes[-1] > 2 * size
    assert sizes[1] > 1.5 * sizes[0]
    examples = 2 * 8 * 8 * 8  # bytes of a step: two batches of eight
    assert population.member_memory(gan, config, 50) - sizes[1] == 2 * 49 * examples


MISTAKES = {
    "alone": (("--together",), "are for --config.population=N"),
    "no program": (("--config.population=2", "--notogether", "--max_members=2"), "does nothing"),
    "none on a CPU": (
        ("--config.population=2", "--max_members=2"),
        "does nothing where runs train",
    ),
    "a target": (("--config.population=2", "--config.target.metric=train/d_loss"), "one run"),
    "no member": (("--config.population=0",), "population must be at least 1, not 0"),
    "seeds": (("--config.population=2", f"--config.seed={2**32 - 1}"), "less than 2**32"),
    "rollback": (
        ("--config.population=2", "--config.on_nan=rollback", "--together"),
        "are for runs that train alone: --notogether",
    ),
    "no room": (("--config.population=2", "--max_members=0"), "max_members"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command, tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    workdir = tmp_path / "run"
    outcome = command(
        "train.py", "--config=configs/digits.py:mescheder", f"--workdir={workdir}", *arguments
    )
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert not workdir.exists()


def test_its_folder_goes_on_as_it_has_begun_and_is_no_run(command, tmp_path):
    words = ["--config=configs/digits.py:mescheder", f"--workdir={tmp_path}"]
    words += [f"--config.{name}={value}" for name, value in SMALL.items()]
    words += ["--config.population=2"]
    outcome = command("train.py", *words, "--config.num_steps=5", "--together")
    assert outcome.code == 0, outcome.err
    assert "2 runs, mean and spread" in outcome.out
    outcome = command("train.py", *words, "--notogether")
    assert outcome.code == 2
    assert "have begun together" in outcome.err
    assert command("train.py", *words).code == 0
    assert rows_of(tmp_path / "seed_0")[-1]["step"] == 20
    outcome = command("evaluate.py", f"--workdir={tmp_path}")
    assert outcome.code == 2
    assert f"{tmp_path} holds several runs: choose one of {tmp_path}/seed_0" in outcome.err
    assert command("sample.py", f"--workdir={tmp_path}/seed_1", f"--out={tmp_path}/x.png").code == 0
