"""Studies, in a short form: `python studies/recipes.py`."""

import csv
import json

import pytest
from conftest import run_study

pytestmark = pytest.mark.slow


def study(tmp_path, *words):
    fixed = ["--seeds=2", f"--out={tmp_path / 'ring.md'}", f"--runs={tmp_path / 'runs'}"]
    fixed += ["--config=configs/ring.py", "--set=generator.width=8", "--set=eval_samples=100"]
    return run_study("recipes", *fixed, *words)


def test_recipes_side_by_side(tmp_path):
    recipes = ["--recipe=goodfellow", "--recipe=mescheder,loss=hinge,penalties.r1=0"]
    result = study(tmp_path, *recipes, "--set=num_steps=3")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "ring.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"].partition(",")[0], row["seed"]) for row in rows] == [
        ("goodfellow", "0"), ("goodfellow", "1"), ("mescheder", "0"), ("mescheder", "1")
    ]  # fmt: skip
    assert all(row["images"] == "384" for row in rows)
    assert {row["eval/modes"] for row in rows} <= {str(float(i)) for i in range(9)} | set(
        "012345678"
    )
    table = (tmp_path / "ring.md").read_text().splitlines()
    assert table[0] == "| recipe | seeds | images | seconds | modes | KL | high quality |"
    assert table[2].startswith("| `goodfellow` | 2 | 384 |")
    assert table[3].startswith("| `mescheder,loss=hinge,penalties.r1=0` | 2 | 384 |")
    assert table[4].startswith("| real, held out |  |  |  | 8 |")

    # A second start trains nothing that is there, and what is new.
    again = study(tmp_path, *recipes, "--set=num_steps=3", "--recipe=mescheder")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Training in") == 2
    assert "`mescheder` | 2" in (tmp_path / "ring.md").read_text()


def test_equal_time(tmp_path):
    """As many steps as the recipe's rate gives in the time, and the rate is measured once."""
    runs = tmp_path / "runs"
    runs.mkdir()
    name = "ring-{}-generator.width=8-eval_samples=100-rate.json"  # other networks, other rates
    (runs / name.format("goodfellow")).write_text('{"steps": 60, "seconds": 3}')
    words = ["--recipe=goodfellow", "--recipe=mescheder", "--seeds=1", "--minutes=0.05"]
    result = study(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "ring.csv").open() as file:
        rows = {row["recipe"]: row for row in csv.DictReader(file)}
    assert int(rows["goodfellow"]["images"]) == (1 + 3 * 20) * 128
    measured = json.loads((runs / name.format("mescheder")).read_text())
    assert 3 < measured["seconds"] < 20
    steps = 1 + round(3 * measured["steps"] / measured["seconds"])
    assert int(rows["mescheder"]["images"]) == steps * 128
    assert {row["seconds"] for row in rows.values()} == {"3"}
    assert (runs / "ring-goodfellow-generator.width=8-eval_samples=100-0.05min-0.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe=goodfellow", "--recipe=nothing"], "recipe 'nothing' does not exist"),
        (["--recipe=goodfellow,los=hinge"], "did you mean loss?"),
        (["--recipe=goodfellow,d_steps=many"], "d_steps takes int, not 'many'"),
        (["--recipe=mescheder,penalties.gp=1"], "penalties contradict each other"),
        (["--recipe=goodfellow,optimizer.generator.b1=0.5"], "sgd has no such number"),
        (["--recipe=goodfellow", "--out=nowhere/ring.md"], "there is no folder"),
        (["--recipe=goodfellow", "--out=ring.csv"], "the runs' file is called so"),
        (["--recipe=goodfellow", "--seeds=0"], "seeds"),
        (["--recipe=goodfellow", "--out=docs"], "it is a folder"),
        (["--recipe=goodfellow", "--recipe=bcr"], "bcr is for images"),
        (
            ["--recipe=mescheder", "--recipe=mescheder,dataset=grid"],
            "by one dataset, not ring, grid",
        ),
        (["--recipe=goodfellow", "--set=population=2"], "population is not for this study"),
    ],
)
def test_a_mistake_ends_it_before_anything_trains(words, message, tmp_path):
    result = study(tmp_path, *words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())
