"""The page of a run, report.html: of what its folder says, whatever has become of it.

The same files give the same page. No checkpoint is opened, no data read and nothing compiled.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import app

import charts
import checks
import cli
import data
import describe
import metrics
import pages
import population
import runs
import scores
from configs import default

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# What is drawn in one chart: its heading, what its axis has, and the metrics of training.
GROUPS = (
    ("Losses", "loss", ("d_loss", "g_loss")),
    ("What D tells right", "share", ("d_accuracy",)),
    ("D's mean logits", "logit", ("d_real_logit", "d_fake_logit")),
    ("Gradients", "norm", ("d_grad_norm", "g_grad_norm")),
    ("Losses of classes", "loss", ("d_class_loss", "g_class_loss")),
    ("ADA", "share", ("d_real_sign", "ada_probability")),
)
CHART = (360, 240)  # pixels of a run's charts: its words can be read on a phone, too
MOST_PICTURES, MOST_BYTES = 40, 6_000_000  # of a timeline; of large pictures it has fewer
MOST_MEMBERS, MOST_ALARMS, MOST_DOTS = 12, 100, 50
CLASS = re.compile(r"_class_\d+$")
LOST = "numbers of training are not finite"
SCRIPT = """
const timeline = document.getElementById("timeline");
const frames = [...timeline.querySelectorAll(".frame")];
const slider = document.getElementById("at"), play = document.getElementById("play");
let timer = 0;
function show() {
  frames.forEach((frame, i) => { frame.hidden = i !== slider.valueAsNumber; });
  const caption = frames[slider.valueAsNumber].querySelector("figcaption");
  slider.setAttribute("aria-valuetext", caption.textContent);
}
function stop() {
  clearInterval(timer);
  timer = 0;
  play.textContent = "\u25b6";
  play.setAttribute("aria-label", "Play");
}
function next() {
  slider.stepUp();
  show();
  if (slider.value === slider.max) stop();
}
slider.addEventListener("input", () => { stop(); show(); });
play.addEventListener("click", () => {
  if (timer) return stop();
  if (slider.value === slider.max) { slider.value = 0; show(); }
  play.textContent = "\u25a0";
  play.setAttribute("aria-label", "Stop");
  timer = setInterval(next, 300);
});
timeline.querySelector(".controls").hidden = false;
show();
"""


class Files(NamedTuple):
    """What the folder of a run says.

    Attributes:
      workdir: the folder.
      config: of the run.
      rows: of metrics.jsonl.
      starts: of env.json, the oldest first.
      pictures: by step.
      step: how far it has come, by its rows, pictures and checkpoints.
    """

    workdir: Path
    config: ConfigDict
    rows: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    pictures: dict[int, Path]
    step: int
    members: list[Path]
    alarms: list[tuple[dict[str, Any], str]]


def write_run_page(workdir: Path, out: Path) -> None:
    """Writes the page of a run, of what there is of it; no checkpoint is opened, no data read.

    Raises:
      app.UsageError: there is no run.
      OSError: the page cannot be written.
    """
    runs.replace(out, run_page(read_files(workdir)))


def read_files(workdir: Path) -> Files:
    """Raises app.UsageError where there is no run."""
    config = cli.restore_config(runs.flatten(runs.read_config(workdir)))
    rows, pictures = runs.read_metrics(workdir), runs.sample_paths(workdir)
    checkpoints = [path.name for path in (workdir / "checkpoints").glob("*")]
    steps = [int(name) for name in checkpoints if name.isdigit()]
    step = max([0, *steps, *pictures, *(row["step"] for row in rows[-1:])])
    members = sorted(path.parent for path in workdir.glob("seed_*/config.json"))
    alarms = _alarms_of(rows)
    for member in members:
        own = _alarms_of(runs.read_metrics(member))
        alarms += [(row, f"{member.name}: {text}") for row, text in own]
    alarms.sort(key=lambda alarm: alarm[0]["step"])
    starts = runs.read_starts(workdir)
    return Files(workdir, config, rows, starts, pictures, step, members, alarms)


def run_page(files: Files) -> str:
    """The page: status, samples, scores, curves, alarms, recipe, command, environment, config.

    The same files give the same page.
    """
    folder = files.workdir.resolve()
    title = f"{folder.parent.name}/{folder.name}" if folder.name[:5] == "seed_" else folder.name
    samples, script = (_member_samples(files.members), "") if files.members else _timeline(files)
    body = [
        _status(files),
        samples,
        _score_tables(files),
        _run_charts(files),
        _alarms(files),
        _recipe(files),
        _commands(files),
        _environment(files),
        _fields(files),
    ]
    return pages.document(title, body, script)


def _status(files: Files) -> str:
    """How far it has come, and how good it is, at a glance."""
    config, rows, step = files.config, files.rows, files.step
    last = rows[-1] if rows else {}
    words = f"not at its end: stopped, killed, or still training at step {step:,}"
    if population.is_lost(last):
        words = f"stopped: its numbers are not finite at step {last['step']:,}"
    elif scores.target_reached(config, last):
        words = f"done: {config.target.metric} has reached its target, {config.target.value:g}"
    elif step >= config.num_steps:
        words = f"done: all {config.num_steps:,} steps"
    elif not step:
        words = "not begun: there is no step of it yet"
    tiles = [
        ("data", pages.text(config.dataset)),
        ("recipe", pages.text(config.recipe or "none")),
        ("step", f"{step:,} of {config.num_steps:,}"),
        ("images", f"{step * config.batch_size:,}"),
    ]
    if rows:
        tiles.append(("time", _duration(last["seconds"])))
    metric, best = _best(files)
    if best:
        tiles.append(
            (f"best {_short(metric)}", f"{pages.number(best[metric])} at step {best['step']:,}")
        )
    if "members" in last:
        tiles.append(("runs", f"{last['members']} of {config.population}"))
    tiles.append(("alarms", str(len(files.alarms))))
    cells = "".join(f"<div><dt>{pages.text(k)}</dt><dd>{v}</dd></div>" for k, v in tiles)
    words = pages.text(words[0].upper() + words[1:])
    return f'<p class="status">{words}.</p><dl class="tiles">{cells}</dl>'


def _timeline(files: Files) -> tuple[str, str]:
    """The latest picture, and all, or evenly spaced ones, with a slider; and its script."""
    steps = _spaced(files.pictures)
    if not steps:
        return "<h2>Samples</h2><p>There is no picture yet.</p>", ""
    frames, batch_size = [], files.config.batch_size
    for step in steps:
        words = f"step {step:,}, {step * batch_size:,} images"
        hidden = "" if step == steps[-1] else " hidden"
        image = pages.image(files.pictures[step], f"samples at {words}")
        caption = f"<figcaption>{words[0].upper()}{words[1:]}</figcaption>"
        frames.append(f'<figure class="frame"{hidden}>{image}{caption}</figure>')
    latest = frames[-1].replace(' class="frame"', "")
    if len(steps) == 1:
        return f'<h2>Samples</h2><div class="pair">{latest}</div>', ""
    last = len(steps) - 1
    of = "all" if len(steps) == len(files.pictures) else f"{len(steps)} of the"
    controls = (
        '<div class="controls" hidden><button type="button" id="play" aria-label="Play">&#9654;'
        f'</button><input type="range" id="at" min="0" max="{last}" value="{last}" step="1" '
        'autocomplete="off" aria-label="Picture of the timeline"></div>'
    )
    parts = [
        '<h2>Samples</h2><div class="pair">',
        f"<section><h3>Latest</h3>{latest}</section>",
        f'<section id="timeline"><h3>Over training</h3>{"".join(frames)}{controls}',
        f"<p>The same latents each time, {of} {len(files.pictures):,} pictures.</p>",
        "</section></div>",
    ]
    return "".join(parts), SCRIPT


def _spaced(pictures: dict[int, Path]) -> list[int]:
    """The steps of all pictures, or of evenly spaced ones, first and last among them."""
    steps = list(pictures)
    largest = max((pictures[step].stat().st_size for step in steps), default=1)
    most = max(2, min(MOST_PICTURES, MOST_BYTES // max(1, largest)))
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _member_samples(members: Sequence[Path]) -> str:
    """The latest pictures of runs of a population."""
    figures: list[str] = []
    for workdir in members:
        pictures = runs.sample_paths(workdir)
        if pictures and len(figures) < MOST_MEMBERS:
            step, path = list(pictures.items())[-1]
            words = f"{workdir.name}, step {step:,}"
            image = pages.image(path, f"samples of {words}")
            figures.append(f"<figure>{image}<figcaption>{pages.text(words)}</figcaption></figure>")
    shown = f"{len(figures)} of {len(members)} runs; each has a page of its own in its folder."
    return f'<h2>Samples</h2><div class="charts">{"".join(figures)}</div><p>{shown}</p>'


def _score_tables(files: Files) -> str:
    """The last scores and those of the best step, beside floor and perfect; classes folded up."""
    scored = [row for row in files.rows if "eval/num_samples" in row]
    if not scored:
        none = "not scored yet" if files.config.eval_every else "not scored: eval_every is 0"
        return f"<h2>Scores</h2><p>It is {none}.</p>"
    last = scored[-1]
    num, floor_num = (int(last.get(f"eval/{x}num_samples", 0)) for x in ("", "floor_"))
    words = f"Step {last['step']:,}, {num:,} samples"
    if not num:
        return f"<h2>Scores</h2><p>{words}: they hold NaN or infinite numbers.</p>"
    if floor_num:
        words += f"; the floor is what {floor_num:,} held-out real examples score"
    metric, best = _best(files)
    if best:
        words += f". Best by {_short(metric)} is step {best['step']:,}"
    heads = ["score", f"step {last['step']:,}", "floor", "perfect", "better", "what it is"]
    other = best if best and best["step"] != last["step"] else None
    if other:
        heads.insert(2, f"step {other['step']:,} (best)")
    lines: list[list[str]] = []
    of_classes: list[list[str]] = []
    for score in _compared(files, last):
        value = pages.number(score.value)
        if score.deviation is not None:
            value += f" &plusmn; {pages.number(score.deviation)}"
        cells = [
            pages.text(score.name),
            value,
            pages.number(score.floor),
            pages.number(score.perfect),
        ]
        if other:
            cells.insert(2, pages.number(other.get(f"eval/{score.name}")))
        meaning = metrics.METRICS[scores.base_metric(score.name)].meaning
        chosen = of_classes if CLASS.search(score.name) else lines
        chosen.append([*cells, pages.text(score.better), pages.text(meaning)])
    parts = [f"<h2>Scores</h2><p>{pages.text(words)}.</p>"]
    parts.append(pages.table(heads, lines, "numbers scores"))
    if of_classes:
        table = pages.table(heads, of_classes, "numbers scores")
        parts.append(f"<details><summary>By class</summary>{table}</details>")
    return "".join(parts)


def _run_charts(files: Files) -> str:
    """A chart a group of what training has logged, then one a score, alarms marked."""
    rows, config = files.rows, files.config
    names = list(dict.fromkeys(name for row in rows for name in row))
    train = [x for x in names if x.startswith("train/") and not x.endswith("_std")]
    marks = [(row["images"], f"step {row['step']:,}: {text}") for row, text in files.alarms]
    groups = (*GROUPS, ("Penalties", "penalty", tuple(config.penalties)))
    figures = []
    for heading, axis, members in groups:
        chosen = [f"train/{x}" for x in members if f"train/{x}" in train]
        if chosen:
            figures.append(_figure_of(heading, axis, rows, chosen, marks))
        train = [x for x in train if x not in chosen]
    figures += [_figure_of(_short(x), _short(x), rows, [x], marks) for x in train]
    of_training = len(figures)
    last: dict[str, Any] = next((x for x in reversed(rows) if x.get("eval/num_samples")), {})
    for score in _compared(files, last):
        if not CLASS.search(score.name):
            heading = f"{score.name} ({score.better} is better)"
            levels = {"floor": score.floor} if score.floor is not None else {}
            name = [f"eval/{score.name}"]
            figures.append(_figure_of(heading, score.name, rows, name, marks, levels, True))
    if not figures:
        return "<h2>Curves</h2><p>There is no row in metrics.jsonl yet.</p>"
    notes = ["The last value stands beside each name."]
    if len(rows) > charts.MOST_POINTS:
        notes.append(
            f"Of {len(rows):,} rows a curve shows at most {charts.MOST_POINTS}: of each stretch "
            "the least and the greatest."
        )
    if marks:
        notes.append("A triangle is an alarm.")
    if len(figures) > of_training:
        notes.append("A dashed line is the floor.")
    return f'<h2>Curves</h2><p>{" ".join(notes)}</p><div class="charts">{"".join(figures)}</div>'


def _figure_of(
    heading: str,
    axis: str,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    marks: Sequence[tuple[float, str]],
    levels: dict[str, float] | None = None,
    dots: bool = False,
) -> str:
    """A chart of some metrics under its heading, a legend with the last values between."""
    curves = {_short(name): charts.points(rows, name) for name in names}
    colours = dict(zip(curves, itertools.cycle(charts.COLOURS)))
    legend = []
    for name, curve in curves.items():
        last = pages.number(curve[-1].value) if curve else "-"
        label = f'<i style="background:{colours[name]}"></i>{pages.text(name)} '
        legend.append(f"<span>{'' if name == axis else label}{last}</span>")
    few = dots and all(len(curve) <= MOST_DOTS for curve in curves.values())
    drawn = charts.chart(curves, colours, axis, levels, marks, few, True, CHART)
    title = f"<b>{pages.text(heading)}</b> {' '.join(legend)}"
    return f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"


def _alarms(files: Files) -> str:
    """The last of them, newest first."""
    found = files.alarms
    if not found:
        return "<h2>Alarms</h2><p>There was none.</p>"
    lines = [[f"{row['step']:,}", pages.text(text)] for row, text in reversed(found[-MOST_ALARMS:])]
    more = f"<p>The last {MOST_ALARMS} of {len(found):,}.</p>" if len(found) > MOST_ALARMS else ""
    return f"<h2>Alarms</h2>{more}{pages.table(['step', 'what'], lines, 'words')}"


def _recipe(files: Files) -> str:
    """What --describe says without compiling."""
    facts = files.starts[-1].get("dataset") if files.starts else None
    try:
        checks.check_values(files.config)
        lines = describe.words(files.config, facts or {}).splitlines()
    except app.UsageError as error:  # a fork's run, or of another revision
        lines = [f"This code could not train it: {error}"]
    items = "".join(f"<li>{pages.text(line)}</li>" for line in lines)
    return f"<h2>Recipe</h2><ul>{items}</ul>"


def _commands(files: Files) -> str:
    """What was typed, of several starts each other one, at the code that it was typed at."""
    blocks = []
    for start in files.starts:
        lines = [f"python {shlex.join(map(str, start.get('command') or []))}"]
        revision = start.get("git_revision")
        if revision:
            lines.insert(0, f"git checkout {shlex.quote(revision.removesuffix('-dirty'))}")
        if lines not in blocks and start.get("command"):
            blocks.append(lines)
    if not blocks:
        return "<h2>Command</h2><p>env.json does not say.</p>"
    words = "The same again, with another --workdir, gives the same run: a click selects all."
    if len(blocks) > 1:
        words += " It was started more than once: one after the other, in one folder."
    if any(str(start.get("git_revision")).endswith("-dirty") for start in files.starts):
        words += " The code had changes that were not committed."
    shown = "".join(
        f"<pre><code>{pages.text(chr(10).join(lines))}</code></pre>" for lines in blocks
    )
    return f"<h2>Command</h2><p>{words}</p>{shown}"


def _environment(files: Files) -> str:
    """Of the last start."""
    if not files.starts:
        return "<h2>Environment</h2><p>env.json cannot be read.</p>"
    start = files.starts[-1]
    facts = {"git revision": start.get("git_revision") or "none: not a git checkout"}
    facts |= {"devices": ", ".join(map(str, start.get("devices", [])))}
    facts |= {name: start.get(name) for name in ("platform", "python")}
    facts |= start.get("versions", {})
    facts |= {"starts": len(files.starts)}
    lines = [[pages.text(name), pages.text(value)] for name, value in facts.items()]
    return f"<h2>Environment</h2>{pages.table(['what', 'which'], lines, 'words')}"


def _fields(files: Files) -> str:
    """The fields that differ from their defaults, then all."""
    usual = runs.flatten(default.get_config().to_dict())
    fields = runs.flatten(files.config.to_dict())
    changed = [
        [pages.text(name), pages.text(json.dumps(value)), pages.text(json.dumps(usual[name]))]
        for name, value in fields.items()
        if value != usual[name]
    ]
    every = [[pages.text(name), pages.text(json.dumps(value))] for name, value in fields.items()]
    return (
        "<h2>Config</h2><p>What differs from configs/default.py:</p>"
        f"{pages.table(['field', 'here', 'by default'], changed, 'words')}"
        f"<details><summary>All {len(fields)} fields</summary>"
        f"{pages.table(['field', 'here'], every, 'words')}</details>"
    )


def _best(files: Files) -> tuple[str, dict[str, Any] | None]:
    """The metric that the best checkpoint is kept by, and the row of that one."""
    names = dict.fromkeys(name for row in files.rows for name in row)
    metric = files.config.best_metric or scores.best_metric(names)
    step = scores.best_step(files.rows, metric)
    return metric or "", next((row for row in files.rows if row["step"] == step), None)


def _compared(files: Files, row: dict[str, Any]) -> list[scores.Compared]:
    """The scores of a row, with what env.json says of the data: how many, and how many classes."""
    facts = (files.starts[-1].get("dataset") if files.starts else None) or {}
    toy = data.TOYS.get(files.config.dataset)
    num_modes = len(toy().centres) if toy else facts.get("num_classes")
    num = int(row.get("eval/num_samples", 0))
    return scores.compare(row, min(num, facts.get("examples", num)), num_modes)


def _alarms_of(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Rows and what they raise, in words; and where numbers of training begin not to be finite."""
    found, lost = [], False
    for row in rows:
        if population.is_lost(row) and not lost:
            found.append((row, LOST))
        lost = population.is_lost(row)
        found += [(row, text) for text in row.get("alarms", [])]
    return found


def _short(name: str) -> str:
    return name.partition("/")[2]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
