"""The scores of generators and of folders: named, repeatable, beside their floor; alarms."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref

import jax
import numpy as np
import pytest
from absl import app
from PIL import Image

import data
import features
import scores
import starts
import train


@pytest.fixture
def judge(make_config):
    config = make_config(changes={"eval_samples": 200})
    return scores.make_judge(config, data.load(config))


def test_real_images_score_better_than_noise_and_the_floor_is_theirs(judge):
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    of_noise, of_real = scores.score(judge, noise), scores.floor(judge)
    assert of_real["num_samples"] == 200
    for name in set(of_real) - {"num_samples", "relative_deviation_pixels"}:
        if "class_" not in name and name != "modes":
            better = scores.distance_from_best(f"eval/{name}", of_real[name])
            assert better < scores.distance_from_best(f"eval/{name}", of_noise[name]), name


def test_reciting_the_training_set_is_seen(judge):
    recited = scores.score(judge, judge.dataset.images[:200])
    assert recited["memorisation_pixels"] > 0.65  # of 1,297 training images 500 are looked at


def test_names_are_those_that_are_logged(judge):
    logged = {f"eval/{name}" for name in scores.floor(judge)} | {"eval/memorisation_pixels"}
    assert set(scores.metric_names(judge)) <= logged
    assert scores.best_metric(scores.metric_names(judge)) == "eval/fd_classifier"


def test_a_conditional_gan_is_scored_by_the_labels_it_was_given(make_config):
    config = make_config(changes={"eval_samples": 200, "conditional": True})
    judge = scores.make_judge(config, data.load(config))
    labels = judge.labels(2_000)  # more than there are: the data's shares, again and again
    shares = [np.bincount(x) / len(x) for x in (labels, judge.dataset.labels)]
    np.testing.assert_allclose(*shares, atol=0.02)
    images, right = judge.held_out.images[:200], judge.held_out.labels[:200]
    wrong = np.where(right == 3, 8, right)
    of_right, of_wrong = (scores.score(judge, images, given) for given in (right, wrong))
    assert of_right["label_accuracy_classifier"] > 0.95
    assert of_wrong["label_accuracy_classifier"] == pytest.approx(
        of_right["label_accuracy_classifier"] - np.mean(right == 3), abs=0.02
    )
    assert of_right["label_accuracy_classifier_class_8"] > 0.9
    assert of_wrong["label_accuracy_classifier_class_8"] < 0.6
    # Distances of classes are of the labels: threes among the eights are seen there.
    name = "fd_classifier_class_8"
    assert of_wrong[name] > 1.5 * of_right[name]
    logged = {f"eval/{name}" for name in scores.floor(judge)} | {"eval/memorisation_pixels"}
    assert "eval/label_accuracy_classifier" in scores.metric_names(judge)
    assert set(scores.metric_names(judge)) <= logged


def test_too_few_samples_are_refused(judge):
    with pytest.raises(ValueError, match="needed"):
        scores.score(judge, judge.dataset.images[:3])


def test_toys_have_modes(make_config):
    config = make_config("configs/ring.py", {"eval_samples": 2_500})
    judge = scores.make_judge(config, data.load(config))
    assert scores.floor(judge)["modes"] == 8
    assert scores.floor(judge)["high_quality"] == pytest.approx(0.989, abs=0.01)
    nowhere = scores.score(judge, np.zeros((100, 2), np.float32))
    assert nowhere["modes"] == 0
    assert "mode_kl" not in nowhere  # no distribution, no number


@pytest.mark.slow
def test_a_run_is_scored_while_it_trains_and_after(command, tmp_path):
    arguments = ["--config=configs/digits.py:goodfellow", f"--workdir={tmp_path / 'run'}"]
    every = ["--config.eval_every=10", "--config.eval_samples=100", "--config.num_steps=20"]
    assert command("train.py", *arguments, *every).code == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["eval/num_samples"] == 100
    outcome = command("evaluate.py", f"--workdir={tmp_path / 'run'}", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out.splitlines()[-1])
    for name in result:
        if name.startswith("eval/"):
            assert result[name] == last[name], name  # the same bits
    best = scores.best_step(rows, "eval/fd_classifier")
    assert (tmp_path / "run/checkpoints" / str(best)).is_dir()


def test_repeats_of_all_checkpoints(command, tmp_path):
    outcome = command(
        "train.py", "--config=configs/digits.py:goodfellow", f"--workdir={tmp_path}",
        "--config.num_steps=20", "--config.eval_every=20", "--config.eval_samples=50",
        "--config.checkpoint_every=10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    outcomes = [
        command("evaluate.py", f"--workdir={tmp_path}", "--step=all", "--json", f"--repeats={num}")
        for num in (1, 2)
    ]
    single, double = (json.loads(x.out.splitlines()[-1])["evaluations"] for x in outcomes)
    assert [x["step"] for x in single] == [x["step"] for x in double] == [10, 20]
    for one, two in zip(single, double):
        assert two["repeats"] == 2
        assert two["eval/floor_fd_classifier"] == one["eval/floor_fd_classifier"]
        distance = abs(one["eval/fd_classifier"] - two["eval/fd_classifier"])
        deviation = two["eval/fd_classifier_std"]
        assert deviation > 0
        assert distance == pytest.approx(deviation / 2**0.5)  # of two numbers from their mean
    line = next(x for x in outcomes[1].out.splitlines() if x.startswith("coverage_classifier"))
    assert len(line.split()) == 6  # name, score, deviation, floor, perfect, better
    outcome = command("evaluate.py", f"--workdir={tmp_path}", "--step=3")
    assert outcome.code == 2
    assert "--step=3 has no checkpoint: there are 10, 20" in outcome.err


def test_a_score_ends_a_run_when_it_is_good_enough(command, tmp_path):
    def train_until(value: float) -> int:
        workdir = tmp_path / str(value)
        outcome = command(
            "train.py", "--config=configs/digits.py:goodfellow", f"--workdir={workdir}",
            "--config.num_steps=20", "--config.eval_every=10", "--config.eval_samples=50",
            "--config.target.metric=eval/coverage_classifier", f"--config.target.value={value}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]

    assert train_until(0.0) == 10  # higher is better
    assert train_until(1.5) == 20


MISTAKES = {
    "nothing to score": ((), "--workdir=DIR is missing"),
    "no run": (("--workdir=/nowhere",), "/nowhere holds no run"),
    "no folder": (("--samples=/nowhere", "--dataset=digits"), "there is no such folder"),
    "both": (("--workdir=/nowhere", "--dataset=mnist"), "without a --workdir"),
    "repeats of a folder": (
        ("--samples=/nowhere", "--dataset=digits", "--repeats=2"),
        "--samples are scored as they are",
    ),
    "no repeats": (("--workdir=/nowhere", "--repeats=0"), "--repeats must be at least 1"),
    "other images": (
        ("--samples=docs/images", "--dataset=digits", "--resolution=8"), "has images of"
    ),
    "a flag without effect": (
        ("--samples=docs/images", "--dataset=digits", "--data_dir=/x"), "--data_dir does nothing"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(command, arguments, message):
    outcome = command("evaluate.py", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert outcome.compilations == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_samples": 0}, "need 10 samples at least, not 0"),
        ({"eval_samples": -1}, "need 10 samples at least, not -1"),
        ({"eval_features": "dino"}, "eval_features='dino' does not exist: choose from classifier"),
        ({"eval_features": "classifier", "resolution": 16}, "no classifier for digits of 16x16x1"),
        ({"eval_features": "classifier", "dataset": "ring"}, "are of images: ring has points"),
        ({"best_metric": "eval/fid"}, "best_metric='eval/fid' is never logged: there are eval/"),
    ],
)
def test_what_cannot_be_scored_is_refused(make_config, changes, message):
    with pytest.raises(app.UsageError, match=message):
        starts.prepare(make_config(changes=changes))


@pytest.mark.parametrize(("num", "message"), [(1, "2 examples at least, not 1"), (12, "all equal")])
def test_examples_that_no_score_can_be_of_train_without(command, tmp_path, num, message):
    """One image learnt by heart is a usual first test of a network."""
    (tmp_path / "data").mkdir()
    for i in range(num):
        Image.new("L", (8, 8), 77).save(tmp_path / "data" / f"{i}.png")
    words = ["--config=configs/digits.py:mescheder", f"--config.dataset=folder:{tmp_path / 'data'}"]
    words += ["--config.batch_size=1", "--config.num_steps=2", f"--workdir={tmp_path / 'run'}"]
    outcome = command("train.py", *words, "--config.eval_every=2")
    assert (outcome.code, outcome.err.count("\n"), outcome.compilations) == (2, 1, 0), outcome
    assert message in outcome.err
    assert not (tmp_path / "run").exists()
    outcome = command("train.py", *words, "--config.eval_every=0")
    assert outcome.code == 0, outcome.err
    outcome = command("evaluate.py", f"--workdir={tmp_path / 'run'}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert message in outcome.err


def save_digits(folder):
    """50 that are held out."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(data.digits(None, held_out=True).images[:50]):
        Image.fromarray(image[..., 0]).save(folder / f"{i}.png")


def test_a_folder_is_scored(command, tmp_path):
    save_digits(tmp_path)
    arguments = [f"--samples={tmp_path}", "--dataset=digits", "--json"]
    outcome = command("evaluate.py", *arguments)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out.splitlines()[-1])["eval/num_samples"] == 50


def test_a_folder_beside_a_conditional_run_has_no_labels(command, tmp_path):
    """So its classes, and those of its floor, are what the classifier takes them for."""
    save_digits(tmp_path / "images")
    words = ["--config=configs/digits.py:cgan", "--config.num_steps=1", "--config.eval_every=0"]
    assert command("train.py", *words, f"--workdir={tmp_path / 'run'}").code == 0
    words = [f"--samples={tmp_path / 'images'}", f"--workdir={tmp_path / 'run'}", "--json"]
    outcome = command("evaluate.py", *words)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out.splitlines()[-1])
    assert "eval/floor_fd_classifier" in found
    assert not [name for name in found if "label_accuracy" in name]


def test_nan_is_no_number(judge, make_config):
    config = make_config()
    _, gan, _ = starts.prepare(config)
    state = train.gans.init(gan, config, jax.random.key(0))
    broken = jax.tree.map(lambda x: x * np.nan, state.average)
    with pytest.raises(FloatingPointError, match="NaN"):
        scores.draw(gan, broken, jax.random.key(0), 10)


def test_points_beyond_what_can_be_compared_are_no_numbers(make_config):
    config = make_config("configs/ring.py", {"eval_samples": 100})
    _, gan, judge = starts.prepare(config)
    state = train.gans.init(gan, config, jax.random.key(0))
    far = jax.tree.map(lambda x: x * 1e7, state.average)  # three layers
    found = scores.evaluate(judge, gan, far, jax.random.key(0))
    assert found["eval/num_samples"] == 0


def test_an_inception_score_does_not_depend_on_the_order(judge, monkeypatch):
    """A folder may have its images class by class."""
    real = judge.dataset.images[:200]
    view = judge.views[0]._replace(num_classes=None, suffix="unknown")

    def compute(_, images):
        return images[:, :, 0, 0] + 0.0, 50 * np.eye(10)[images[:, 0, 1, 0] % 10]

    monkeypatch.setattr(features, "compute", compute)
    fake = real.copy()
    fake[:, 0, 1, 0] = np.arange(200) // 20  # twenty sure ones of each class, in order
    found = scores.score(dataclasses.replace(judge, views=(view,)), fake)
    assert found["inception_score_unknown"] > 6  # in order: 1


def test_what_is_held_out_may_be_too_little_for_a_floor(judge):
    few = data.Dataset(judge.held_out.images[:2], judge.held_out.labels[:2], 10)
    with pytest.raises(app.UsageError, match="held-out examples at least, not 2"):
        scores.check(dataclasses.replace(judge, held_out=few))


def test_perfect_coverage_is_of_as_many_real_ones_as_there_are():
    row = {"eval/num_samples": 10_000, "eval/coverage_classifier": 0.97}
    [few], [many] = scores.compare(row, 1_297, 10), scores.compare(row, None, 10)
    assert (few.perfect, many.perfect) == pytest.approx((0.99998, 0.969), abs=5e-4)


def test_a_run_that_diverges_says_so(command, tmp_path):
    arguments = ["--config=configs/digits.py:goodfellow", f"--workdir={tmp_path}"]
    rates = ["--config.optimizer.generator.learning_rate=1e30", "--config.num_steps=3"]
    outcome = command("train.py", *arguments, *rates, "--config.eval_every=3")
    assert outcome.code == 1
    assert "step 3: not finite: " in outcome.err
    where = f"--workdir={tmp_path / 'not_finite'}"
    outcome = command("evaluate.py", where, "--json", "--repeats=2")
    assert outcome.code == 0
    assert "no scores" in outcome.out
    assert json.loads(outcome.out.splitlines()[-1])["eval/num_samples"] == 0


def row(**figures) -> dict:
    return {"step": 0} | {f"{k.replace('__', '/')}": v for k, v in figures.items()}


def test_alarms():
    calm = [row(train__d_accuracy=0.7, train__g_grad_norm=1.0)] * 10
    assert scores.alarms(calm) == []
    [alarm] = scores.alarms([*calm, row(eval__num_samples=0)])
    assert alarm.startswith("samples not finite")
    pinned = [*calm, *[row(train__d_accuracy=1.0, train__g_grad_norm=1e-4)] * 10]
    raised = [scores.alarms(pinned[:i]) for i in range(1, 21)]
    kinds = [alarm.partition(":")[0] for alarms in raised for alarm in alarms]
    assert sorted(kinds) == ["discriminator pinned", "gradient vanishing"]  # once each
    modes = [row(eval__modes=8), row(train__d_loss=1.0), row(eval__modes=5)]
    (lost,) = scores.alarms(modes)
    assert lost.startswith("modes lost: 5 modes, 8 at the evaluation before")
    assert scores.alarms([*modes, row(train__d_loss=1.0)]) == []
    assert scores.alarms([*modes, row(eval__modes=4)])[0].startswith("modes lost: 4 modes, 5 at")
    constant = [row(eval__relative_deviation_pixels=0.01), row(train__d_loss=1.0)]
    assert scores.alarms(constant[:1])[0].startswith("samples nearly constant")
    assert scores.alarms(constant + constant) == []  # it lasts


def test_a_row_costs_the_same_however_many_there_are():
    """One of training alone is held against the first rows and the last, and no other is read."""

    class Between(dict):
        def get(self, *_):
            raise AssertionError("read")

    ends = [row(train__d_accuracy=0.7, train__g_grad_norm=1.0) for _ in range(100)]
    assert scores.alarms([*ends, *[Between()] * 1_000, *ends]) == []


def test_a_judge_goes_when_others_have_come(make_config):
    """It holds a data set, and a study makes one a run."""
    judges = []
    for seed in range(6):
        _, _, judge = starts.prepare(make_config("configs/ring.py:mescheder", {"seed": seed}))
        scores.floor(judge)
        judges.append(weakref.ref(judge))
        del judge
    gc.collect()
    assert [judge() is None for judge in judges[:4]] == [True] * 4
