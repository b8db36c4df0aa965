"""studies/imbalance.py: its data and its scores by hand, and the study in a short form."""

import csv
import json

import jax
import numpy as np
import pytest
from conftest import import_script, run_study

import data

pytestmark = pytest.mark.slow

study = import_script("imbalance")


def test_a_long_tail_in_closed_form():
    counts = study.long_tail(10, 4_000, 100.0)
    assert counts[0] == 4_000
    assert counts[-1] == 40
    assert counts == sorted(counts, reverse=True)
    ratio = 100 ** (1 / 9)  # of one class to the next
    np.testing.assert_allclose(counts, [4_000 / ratio**i for i in range(10)], atol=1)
    assert study.long_tail(3, 900, 9.0) == [900, 300, 100]
    assert study.long_tail(4, 7, 1.0) == [7, 7, 7, 7]


def labelled(counts):
    """Images that are all different, in an order of their own."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return data.Dataset(images, labels.astype(np.int32), len(counts))


def test_a_subset_has_the_counts_and_no_image_twice():
    whole = labelled([30, 40, 50])
    few, more = (study.subset(whole, counts, 3) for counts in ([3, 20, 1], [10, 20, 7]))
    assert np.bincount(few.labels).tolist() == [3, 20, 1]
    chosen = few.images.ravel()
    assert len(set(chosen)) == 24
    assert (whole.labels[chosen] == few.labels).all()
    assert set(chosen) < set(more.images.ravel())
    other = study.subset(whole, [3, 20, 1], 4).images.ravel()
    assert set(other) != set(chosen)


def test_what_is_rare_depends_on_the_seed():
    orders = [study.class_order(seed, 10) for seed in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({c for order in orders for c in order[-study.RAREST :]}) == 9


def test_balanced_draws_take_every_class_as_often():
    """A class of 40 as often as one of 4,000: once in so many draws as there are classes."""
    labels = np.repeat(np.arange(10), study.long_tail(10, 4_000, 100.0))
    shape = (2, 1, 64)
    indices = data.make_indices(jax.random.key(0), len(labels), shape, labels)
    drawn = np.concatenate([labels[indices(step).ravel()] for step in range(200)])
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(shares, 0.1, atol=0.005)
    plain = data.make_indices(jax.random.key(0), len(labels), shape)
    drawn = np.concatenate([labels[plain(step).ravel()] for step in range(200)])
    np.testing.assert_allclose(
        np.bincount(drawn) / len(drawn), np.bincount(labels) / len(labels), atol=0.01
    )


def test_recall_and_coverage_of_a_class_by_hand():
    """On a line: fakes of class 0 at 0, 1, ..., 9, of class 1 three, far apart from each other."""
    real = np.concatenate([np.arange(10) + 0.5, 100 + np.arange(10.0)])[:, None]
    labels = np.repeat([0, 1], 10)
    fake = np.concatenate([np.arange(10.0), [97.0, 112.0, 130.0]])[:, None]
    classes = np.repeat([0, 1], [10, 3])
    recall, coverage = study.class_recall_coverage(real, labels, fake, classes, 2)
    # A fake's ball reaches to its third neighbour: 3 at the end of the row, so 9.5 is in one. From
    # 112 it is 103 to the fake at 9: all of class 1 is in that ball, though nothing is near it.
    assert recall == [1.0, 1.0]
    # A real ball of class 0 reaches 3 at least and has a fake 0.5 away; three fakes cover nothing.
    assert coverage == [1.0, 0.0]

    fake = np.concatenate([np.arange(10.0), 100 + np.array([0.0, 0.1, 0.2, 0.3])])[:, None]
    classes = np.repeat([0, 1], [10, 4])
    recall, coverage = study.class_recall_coverage(real, labels, fake, classes, 2)
    # Balls of 0.3 around 100, 0.2 or 0.3 around the others: of class 1 they hold its first sample.
    assert recall == [1.0, 0.1]
    # Real balls from 100 on have radii 5, 4, 3, 3, 3, 3, 3, 3, 4, 5: those around 100 to 103 hold a
    # fake nearer than that, 103 one at 2.7.
    assert coverage == [1.0, 0.4]


def test_the_cure_is_the_change_with_the_least_distance():
    rows = [
        {"variant": variant, "fd_whole": value}
        for variant, value in (
            ("baseline", 1.0), ("crops", 4.0), ("crops", 8.0), ("ADA", 5.0), (study.OTHERS, 0.0)
        )
    ]  # fmt: skip
    assert study.cure(rows) == "ADA"
    assert study.cure(rows[:1]) is None
    clean = {"baseline": 0.9, "crops": 0.45, "ADA": 0.58, study.OTHERS: 0.5}
    rows = [{"variant": name, "memorisation": value} for name, value in clean.items()]
    assert study.cure(rows, clean=True) == "crops"


def short(tmp_path, *words):
    fixed = ["--dataset=digits", "--num_steps=2", "--seeds=1", "--only=baseline"]
    fixed += [f"--out={tmp_path}", f"--runs={tmp_path / 'runs'}"]
    return run_study("imbalance", *fixed, *words)


def test_the_study_in_short(tmp_path):
    result = short(tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "imbalance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["variant"]) for row in rows] == [
        (case, name) for case in study.CASES for name in (study.TRAINED, study.OTHERS, "baseline")
    ]
    trained = rows[
        0
    ]  # of the real images as they are: 100 of the most frequent class, 1 of the last
    counts = study.long_tail(10, 100, 100.0)
    assert json.loads(trained["counts"])[study.class_order(0, 10)[0]] == 100
    assert float(trained["share_0"]) == pytest.approx(100 / sum(counts), abs=0.02)
    table = (tmp_path / "imbalance.md").read_text()
    assert table.count("| baseline | 1 |") == 2
    for name in ("imbalance.png", "imbalance_few.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    config = json.loads(next(tmp_path.glob("runs/*few*/config.json")).read_text())
    assert config["dataset"] == "digits"
    assert not config["balanced"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--out=nowhere"], "there is no such folder"), (["--only=magic"], "magic")],
)
def test_a_mistake_is_one_line(words, message, tmp_path):
    result = short(tmp_path, *words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())
