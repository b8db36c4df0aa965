"""The page of a run: what it says is what its folder has, and a browser shows it."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shlex
import shutil
import time
from html.parser import HTMLParser

import browser
import pytest

import charts
import cli
import data
import metrics
import pages
import ranking
import report
import runs
import train

SMALL = {
    "batch_size": 16,
    "num_steps": 40,
    "log_every": 10,
    "sample_every": 10,
    "eval_every": 20,
    "eval_samples": 50,
    "checkpoint_every": 20,
    "generator.width": 8,
    "discriminator.width": 8,
    "steps_per_call": 10,
}


def train_a_run(workdir, page="configs/digits.py:mescheder", **changes):
    config = cli.load_config(page)
    config.update_from_flattened_dict(SMALL | changes)
    train.train_and_evaluate(config, workdir)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that has come to its end; nobody changes it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_a_run(workdir)
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    """One to be changed."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    return tmp_path / "run"


class Parsed(HTMLParser):
    """What a page has: its text, tables of cells, numbers to the last digit, elements by tag."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tables, self.elements, self.numbers = "", [], {}, []
        self._open = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.setdefault(tag, []).append(dict(attributes))
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "data":
            self.numbers.append(float(dict(attributes)["value"]))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, text):
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.text += text
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += text


def read(workdir):
    return Parsed((workdir / "report.html").read_text())


def page_of(command, workdir):
    outcome = command("sample.py", f"--workdir={workdir}", "--mode=report")
    assert outcome.code == 0, outcome.err
    assert outcome.compilations == 0
    return read(workdir)


def rewrite(path, change):
    """Changes what a JSON file holds."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def write_rows(workdir, rows):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_its_numbers_are_those_of_the_run(finished):
    """Each score beside its floor, to the last digit, and what is perfect by its own formula."""
    page, rows = read(finished), runs.read_metrics(finished)
    last = rows[-1]
    by_name = {line[0]: line for line in page.tables[0][1:]}
    scored = [
        x for x in last if x.startswith("eval/") and not re.search("floor|num_sam|_class_", x)
    ]
    assert set(by_name) == {name.removeprefix("eval/") for name in scored}
    best = min((row for row in rows if "eval/modes" in row), key=lambda r: r["eval/fd_classifier"])
    heads = page.tables[0][0]
    assert ("step 20 (best)" in heads) == (best is not last)
    for name, line in by_name.items():
        cells = dict(zip(heads, line))
        assert cells["step 40"] == f"{last[f'eval/{name}']:.4g}"
        floor = last.get(f"eval/floor_{name}")
        assert cells["floor"] == ("-" if floor is None else f"{floor:.4g}")
    for name in scored:
        assert last[name] in page.numbers
    cells = {name: dict(zip(heads, line)) for name, line in by_name.items()}
    assert cells["coverage_classifier"]["perfect"] == f"{metrics.expected_coverage(50, 50):.4g}"
    assert cells["mode_kl"]["perfect"] == f"{9 / 100:.4g}"  # 10 classes, 50 samples
    assert cells["fd_classifier"]["perfect"] == "-"
    better = {name: line["better"] for name, line in cells.items()}
    assert better["fd_classifier"] == "lower"
    assert better["modes"] == "higher"
    assert better["memorisation_pixels"] == "0.5"
    assert f"{best['eval/fd_classifier']:.4g} at step {best['step']}" in page.text
    assert best["eval/fd_classifier"] in page.numbers
    for name in (x for x in last if x.startswith("train/")):
        assert last[name] in page.numbers, name
    classes = {line[0] for line in page.tables[1][1:]}
    assert {f"fd_classifier_class_{i}" for i in range(10)} >= classes
    assert len(classes) == sum("/fd_classifier_class" in name for name in last)


def test_curves_are_those_of_the_run(finished):
    """One chart: D's and G's losses, by their places."""
    text = (finished / "report.html").read_text()
    rows = runs.read_metrics(finished)
    (figure,) = re.findall(r"<figure><figcaption><b>Losses</b>.*?</figure>", text)
    lines = re.findall(r'<polyline points="([^"]*)".*?<title>(\w+)</title>', figure)
    assert [name for _, name in lines] == ["d_loss", "g_loss"]
    values = [row[f"train/{name}"] for row in rows for _, name in lines]
    width, height = report.CHART
    frame = charts.Frame(0, 640, min(values), max(values), width=width, height=height)
    for line, name in lines:
        places = [frame.place(row["images"], row[f"train/{name}"]) for row in rows]
        assert line.split() == places
    assert len(re.findall('stroke-dasharray="6 4"', text)) == sum(
        "floor_" in name and "_class_" not in name and "num" not in name for name in rows[-1]
    )


def test_it_holds_the_pictures(finished):
    """All of them in order, bit by bit; where no script runs the latest alone is shown."""
    text = (finished / "report.html").read_text()
    frames = re.findall(r'<figure class="frame"( hidden)?><img src="([^"]*)" alt="([^"]*)"', text)
    paths = list(runs.sample_paths(finished).values())
    assert len(frames) == len(paths) == 5
    for (_, source, _), path in zip(frames, paths, strict=True):
        kind, _, encoded = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(encoded) == path.read_bytes()
    assert [bool(hidden) for hidden, _, _ in frames] == [True] * 4 + [False]
    assert frames[1][2] == "samples at step 10, 160 images"
    assert '<div class="controls" hidden>' in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) == 7  # the latest once more, and an icon of no bytes
    assert all(link.startswith("data:") for link in links)
    assert "http" not in Parsed(text).text


def test_it_says_what_the_run_was(finished):
    page = read(finished)
    assert "Done: all 40 steps." in page.text
    assert "40 of 40" in page.text
    assert "There was none." in page.text
    for words in ("Recipe mescheder", "Data: digits, 1,297 of 8 x 8 x 1, 10 classes", "3 x r1"):
        assert words in page.text
    start = json.loads((finished / "env.json").read_text())
    for value in (start["versions"]["jax"], start["git_revision"], start["platform"]):
        assert value in page.text
    (code,) = re.findall(
        "<pre><code>(.*?)</code></pre>", (finished / "report.html").read_text(), re.S
    )
    *_, line = Parsed(code).text.split("\n", 1)
    assert shlex.split(line) == ["python", *start["command"]]
    changed, every = page.tables[-2:]
    assert ["penalties.r1", "3.0", "0.0"] in changed
    fields = runs.flatten(runs.read_config(finished))
    assert {line[0]: json.loads(line[1]) for line in every[1:]} == fields


def test_the_same_files_give_the_same_page(finished, copied, command, monkeypatch):
    """Without checkpoints, data and compilation, and whoever asks for it."""
    whole = (finished / "report.html").read_bytes()
    shutil.rmtree(copied / "checkpoints")
    monkeypatch.setattr(data, "load", None)
    page_of(command, copied)
    assert (copied / "report.html").read_bytes() == whole
    out = copied.parent / "page.html"
    outcome = command("sample.py", f"--workdir={copied}", "--mode=report", f"--out={out}")
    assert outcome.out.strip() == str(out)
    assert out.read_bytes() == whole


def lose(rows):
    rows[-1]["train/d_loss"] = None


ODD = {  # how a folder is changed, and what its page says then
    "stopped half-way": (lambda run: rewrite(run / "config.json", lambda c: c.update(num_steps=99)),
        "Not at its end: stopped, killed, or still training at step 40."),
    "cut off": (lambda run: (run / "metrics.jsonl").open("a").write('{"step": 50, "ima'), "Done"),
    "no rows": (lambda run: (run / "metrics.jsonl").unlink(), "There is no row in metrics.jsonl yet."),
    "only begun": (lambda run: [shutil.rmtree(run / "samples"), shutil.rmtree(run / "checkpoints"),
        (run / "metrics.jsonl").unlink()], "Not begun: there is no step of it yet."),
    "no pictures": (lambda run: shutil.rmtree(run / "samples"), "There is no picture yet."),
    "one picture": (lambda run: [path.unlink() for path in runs.sample_paths(run).values()
        if "40" not in path.name], "Step 40, 640 images"),
    "a foreign picture": (lambda run: (run / "samples/step_mine.png").touch(), "all 5 pictures"),
    "no environment": (lambda run: (run / "env.json").write_text('{"comm'), "env.json cannot be read."),
    "an older revision": (lambda run: rewrite(run / "env.json", lambda e: e.pop("dataset")),
        "Data: digitsNetworks: mlp from 100 latents"),
    "no scores yet": (lambda run: write_rows(run, runs.read_metrics(run)[:1]), "It is not scored yet."),
    "never scored": (lambda run: [write_rows(run, runs.read_metrics(run)[:1]),
        rewrite(run / "config.json", lambda c: c.update(eval_every=0))], "not scored: eval_every is 0"),
    "samples not finite": (lambda run: write_rows(run, [*runs.read_metrics(run)[:3],
        {"step": 40, "images": 640, "seconds": 1, "eval/num_samples": 0}]),
        "Step 40, 0 samples: they hold NaN or infinite numbers."),
    "a score of null": (lambda run: write_rows(run, [*runs.read_metrics(run)[:-1],
        runs.read_metrics(run)[-1] | {"eval/fd_classifier": None}]), "Best by fd_classifier is step 20"),
    "lost": (lambda run: write_rows(run, [*runs.read_metrics(run)[:-1],
        {"step": 40, "images": 640, "seconds": 1, "train/d_loss": None, "train/g_loss": None}]),
        "Stopped: its numbers are not finite at step 40."),
    "nothing but null": (lambda run: write_rows(run, [
        {"step": 10, "images": 160, "seconds": 1, "train/d_loss": None}]), "No run has it yet."),
    "a target": (lambda run: rewrite(run / "config.json", lambda c: [c.update(num_steps=99),
        c["target"].update(metric="eval/fd_classifier", value=1e9)]), "fd_classifier has reached its target"),
    "alarms": (lambda run: write_rows(run, [row | {"alarms": ["modes lost: 3 & less"]}
        for row in runs.read_metrics(run)]), "modes lost: 3 & less"),
    "two starts": (lambda run: rewrite(run / "env.json", lambda e: e.update(
        earlier_starts=[{**e, "command": ["train.py", "--first"]}])), "python train.py --first"),
    "no git": (lambda run: rewrite(run / "env.json", lambda e: e.update(git_revision=None)),
        "none: not a git checkout"),
    "a population's": (lambda run: write_rows(run, [row | {"eval/fd_classifier_std": 0.25}
        for row in runs.read_metrics(run)]), " ± 0.25"),
    "a network of a fork": (lambda run: rewrite(run / "config.json", lambda c: c["generator"].update(
        name="mine")), "This code could not train it: generator.name='mine' does not exist"),
    "a metric of a fork": (lambda run: write_rows(run, [row | {"train/my_own": 0.125}
        for row in runs.read_metrics(run)]), "my_own"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_whatever_has_become_of_it(copied, command, kind):
    change, words = ODD[kind]
    change(copied)
    page = page_of(command, copied)
    assert words in page.text
    assert not re.search(r"\b(nan|None|inf)\b", page.text)
    ids = [x.get("id") for elements in page.elements.values() for x in elements if x.get("id")]
    assert len(ids) == len(set(ids))


def test_alarms_are_marked(copied, command):
    """In every chart at their images, and in a table, the newest first."""
    rows = runs.read_metrics(copied)
    rows[0]["alarms"], rows[2]["alarms"] = ["first"], ["second", "third"]
    rows[1]["train/d_loss"] = None
    write_rows(copied, rows)
    page = page_of(command, copied)
    (table,) = [table for table in page.tables if table[0] == ["step", "what"]]
    lost = "numbers of training are not finite"
    assert table[1:] == [["30", "third"], ["30", "second"], ["20", lost], ["10", "first"]]
    text = (copied / "report.html").read_text()
    charts_of_it = re.findall(r"<svg .*?</svg>", text)
    for drawn in charts_of_it:
        words = re.findall(r'class="mark"><title>(.*?)</title>', drawn)
        assert words == ["step 10: first", f"step 20: {lost}", "step 30: second"]
    assert len(charts_of_it) == text.count("<figure><figcaption><b>") > 10


def test_a_long_run_is_thinned_and_says_so(copied, command):
    row = runs.read_metrics(copied)[-1]
    rows = [
        row | {"step": i, "images": 16 * i, "train/d_loss": i * 7919 % 997} for i in range(5000)
    ]
    rows[1234]["train/d_loss"] = 5000.0
    write_rows(copied, rows)
    for i in range(300):
        shutil.copy(copied / "samples/step_00000010.png", runs.sample_path(copied, 50 + i))
    before = time.monotonic()
    page = page_of(command, copied)
    assert time.monotonic() - before < 30  # of a loaded machine; 1 s of one that is not
    assert "Of 5,000 rows a curve shows at most 300" in page.text
    assert "40 of the 305 pictures" in page.text
    text = (copied / "report.html").read_text()
    assert len(text) < 3_000_000
    assert max(len(x.split()) for x in re.findall(r'<polyline points="([^"]*)"', text)) <= 300
    frames = re.findall(r'class="frame".*?alt="samples at step (\d+),', text)
    assert frames[0] == "0"
    assert frames[-1] == "349"
    assert len(frames) == len(set(frames)) == report.MOST_PICTURES


def test_large_pictures_are_fewer(copied, command, monkeypatch):
    largest = max(path.stat().st_size for path in runs.sample_paths(copied).values())
    monkeypatch.setattr(report, "MOST_BYTES", 3 * largest)
    assert "3 of the 5 pictures" in page_of(command, copied).text
    assert (copied / "report.html").read_text().count('class="frame"') == 3


EVIL = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\"'&amp;"


@pytest.fixture
def hostile(copied):
    """A run whose every text is an attack."""
    rewrite(copied / "config.json", lambda c: c.update(dataset=f"folder:{EVIL}", best_metric=EVIL))
    start = {"git_revision": EVIL, "devices": [EVIL], "platform": EVIL, "versions": {EVIL: EVIL}}
    start["command"] = ["train.py", f"--workdir={EVIL}", "a b", "\udcff"]
    rewrite(copied / "env.json", lambda e: e.update(start))
    rows = runs.read_metrics(copied)
    rows[-1] |= {"alarms": [EVIL], f"train/{EVIL}": 1.0}
    write_rows(copied, rows)
    return copied.rename(copied.parent / "<script>hacked=1<")


def test_what_it_quotes_is_text(hostile, command):
    page = page_of(command, hostile)
    assert len(page.elements["script"]) == 1
    assert all("onerror" not in x and x["src"][:5] == "data:" for x in page.elements["img"])
    assert page.text.count(EVIL) >= 8
    text = (hostile / "report.html").read_text()
    (code,) = re.findall("<pre><code>(.*?)</code></pre>", text, re.S)
    command_line = Parsed(code).text.rpartition("\n")[2]
    assert shlex.split(command_line) == ["python", "train.py", f"--workdir={EVIL}", "a b", "?"]
    title = re.findall("<title>(.*?)</title>", text)[0]
    assert title == "&lt;script&gt;hacked=1&lt;"


def test_points_have_a_page(tmp_path):
    train_a_run(tmp_path / "ring", "configs/ring.py")
    page = read(tmp_path / "ring")
    cells = {line[0]: dict(zip(page.tables[0][0], line)) for line in page.tables[0][1:]}
    assert set(cells) >= {"modes", "high_quality"}
    assert cells["high_quality"]["perfect"] == "0.9889"  # 1 - exp(-9 / 2)
    assert cells["modes"]["perfect"] == "7.99"  # 8 (1 - (7 / 8)^50)
    assert "Best by high_quality is step" in page.text
    assert len(page.elements["img"]) == 6


def test_a_run_that_was_lost_has_a_page(tmp_path, command):
    words = [f"--config.{k}={v}" for k, v in SMALL.items()]
    words += ["--config.optimizer.generator.learning_rate=1e30", f"--workdir={tmp_path / 'run'}"]
    outcome = command("train.py", "--config=configs/digits.py:mescheder", *words)
    assert outcome.code == 1
    assert "Stopped: its numbers are not finite at step 10." in read(tmp_path / "run").text
    assert "report.html" in outcome.out


@pytest.mark.slow
def test_a_population_has_pages(tmp_path, command):
    """One of all, with mean and spread, and one a run."""
    fields = SMALL | {"population": 2, "eval_every": 0}
    words = [f"--config.{k}={v}" for k, v in fields.items() if k != "eval_samples"]
    page, workdir = "configs/digits.py:mescheder", tmp_path / "both"
    outcome = command("train.py", f"--config={page}", *words, "--together", f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    for seed in (0, 1):
        place = workdir / f"seed_{seed}"
        assert "<h1>both/seed_" in (place / "report.html").read_text()
        assert runs.read_metrics(place)[-1]["train/d_loss"] in read(place).numbers
    both = read(workdir)
    last = runs.read_metrics(workdir)[-1]
    assert last["train/d_loss"] in both.numbers
    assert "2 of 2 runs" in both.text
    assert len(both.elements["img"]) == 2
    assert "<polygon " in (workdir / "report.html").read_text()
    assert "d_loss_std" not in both.text
    assert "There was none." in both.text
    log = workdir / "seed_1/metrics.jsonl"
    [*rows, last] = runs.read_metrics(workdir / "seed_1")
    log.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, last | {"alarms": ["odd"]}]))
    report.write_run_page(workdir, workdir / "report.html")
    assert "seed_1: odd" in read(workdir).text


def test_a_page_that_cannot_be_made_costs_nothing(finished, tmp_path, monkeypatch, capsys):
    """The run is whole, one line says why, and a page that was there stays as it is."""

    def full(source, target):
        if str(target).endswith("report.html"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    replace = os.replace
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run/report.html").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        train_a_run(tmp_path / "run", num_steps=60, eval_every=0)
    assert "no report.html: OSError" in capsys.readouterr().err
    assert (tmp_path / "run/report.html").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.partial"))
    assert runs.read_metrics(tmp_path / "run")[-1]["step"] == 60
    monkeypatch.setattr(report, "run_page", lambda files: 1 / 0)
    train_a_run(tmp_path / "run", num_steps=80, eval_every=0)
    assert "no report.html: ZeroDivisionError" in capsys.readouterr().err
    assert runs.read_metrics(tmp_path / "run")[-1]["step"] == 80


MISTAKES = {
    "no folder": (lambda run: [f"--workdir={run / 'none'}"], "holds no run"),
    "no run": (lambda run: [f"--workdir={run / 'samples'}"], "holds no run"),
    "no config": (lambda run: [f"--workdir={run}", (run / "config.json").write_text("[")][:1], "holds no run"),
    "another revision": (lambda run: [f"--workdir={run}", rewrite(
        run / "config.json", lambda c: c.update(forgotten=1))][:1], "the field forgotten does not exist"),
    "nowhere": (lambda run: [f"--workdir={run}", "--out=nowhere/x.html"], "there is no folder nowhere"),
    "a step": (lambda run: [f"--workdir={run}", "--step=20"], "--step changes nothing in --mode=report"),
    "no mode": (lambda run: [f"--workdir={run}", "--mode=rapport"], "mode"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command, copied, mistake):
    words, message = MISTAKES[mistake]
    outcome = command("sample.py", "--mode=report", *words(copied))
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert outcome.compilations == 0
    assert not (copied / "report.html").exists()


@pytest.fixture(scope="module")
def tab():
    with browser.open_page() as page:
        yield page


def shown(tab):
    """The captions of what the timeline shows."""
    return tab.value(
        "[...document.querySelectorAll('.frame')].filter(x => x.getClientRects().length)"
        ".map(x => x.querySelector('figcaption').textContent)"
    )


def test_the_slider_moves_the_picture(tab, finished):
    """By keys, and by the mouse."""
    tab.complaints.clear()
    tab.open(finished / "report.html", 1280)
    assert shown(tab) == ["Step 40, 640 images"]
    tab.value("document.querySelector('#at').focus()")
    tab.press("ArrowLeft")
    assert shown(tab) == ["Step 30, 480 images"]
    assert tab.value("document.querySelector('#at').ariaValueText") == "Step 30, 480 images"
    tab.press("Home")
    assert shown(tab) == ["Step 0, 0 images"]
    tab.press("ArrowRight")
    assert shown(tab) == ["Step 10, 160 images"]
    tab.click("#at", 0.5)
    assert shown(tab) == ["Step 20, 320 images"]
    drawn = "document.querySelector('.frame:not([hidden]) img')"
    assert tab.value(f"{drawn}.complete && {drawn}.naturalWidth") == 582
    assert tab.complaints == []


def test_the_timeline_plays(tab, finished):
    tab.complaints.clear()
    tab.open(finished / "report.html", 1280)
    tab.click("#play")
    seen = []
    deadline = time.monotonic() + 60
    while not seen or seen[-1] != "Step 40, 640 images":
        assert time.monotonic() < deadline
        (caption,) = shown(tab)
        seen += [caption] if caption not in seen[-1:] else []
    assert seen[0] == "Step 0, 0 images"
    assert seen == sorted(seen, key=lambda words: int(words.split()[1].rstrip(",")))
    assert tab.value("document.querySelector('#play').getAttribute('aria-label')") == "Play"
    assert tab.complaints == []


def test_it_fits_a_phone(tab, finished, tmp_path, hostile, command):
    """Nothing but tables is wider than 360 pixels, and those scroll by themselves."""
    page_of(command, hostile)
    rows = runs.read_metrics(finished)
    settings = {f"loss={'x' * 200}": [ranking.Curve(finished, rows)]}
    ranked = ranking.rank(settings, "eval/fd_classifier", float)
    sweep = tmp_path / "sweep.html"
    sweep.write_text(ranking.sweep_page("sweep", settings, ranked, "eval/fd_classifier"))
    for path in (finished / "report.html", hostile / "report.html", sweep):
        tab.complaints.clear()
        tab.open(path, 360, phone=True)
        tab.value("document.querySelectorAll('details').forEach(x => { x.open = true })")
        assert tab.value("document.documentElement.scrollWidth") <= 360, path
        assert tab.value("document.documentElement.clientWidth") == 360
        smallest = tab.value(
            "Math.min(...[...document.querySelectorAll('svg text')].map(x => "
            "12 * x.getScreenCTM().a || 12))"
        )
        assert smallest > (10 if path != sweep else 5)  # pixels
        assert tab.value("window.hacked") is None
        assert tab.complaints == []


def test_without_a_script_the_latest_is_shown(tab, finished):
    tab.complaints.clear()
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(finished / "report.html", 800)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert shown(tab) == ["Step 40, 640 images"]
    assert tab.value("document.querySelector('.controls').getClientRects().length") == 0
    assert tab.complaints == []


def test_a_script_of_another_does_not_run(tab, tmp_path):
    """The page's policy: the test sees a complaint, so it would see others."""
    page = pages.document("title", ["<script>hacked = 1</script>"], "own = 1")
    (tmp_path / "page.html").write_text(page)
    tab.complaints.clear()
    tab.open(tmp_path / "page.html", 800)
    assert tab.value("window.hacked") is None
    assert tab.value("window.own") == 1
    assert "Content Security Policy" in "".join(tab.complaints)
