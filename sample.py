"""Pictures out of a run, of its averaged generator; and the generator itself, to take along.

    python sample.py --workdir=DIR [--mode=MODE] [--out=FILE] [--step=N] [--seed=N] [--rows=N] ...

grid        samples, a class a row where there are labels
walk        a GIF of latents on their way through others and back; with --out=X.png its frames
timeline    a GIF of the same latents over training; with --out=X.png its frames
directions  what moving along closed-form directions changes; with --pca along principal ones
invert      held-out images, and the nearest that the generator makes
neighbours  samples beside the training images nearest to them
export      a file that jax alone reads and calls: exports.py
report      the run's page, anew

The modes' defaults are seconds on two cores. What a flag would not change is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from PIL import Image

import checks
import cli
import data
import devices
import encoded
import exports
import features
import gan as gans
import latents
import metrics
import pictures
import report
import runs
import scores

STEP, TRUNCATION = cli.checkpoint_flags()
OUT = flags.DEFINE_string("out", None, "The file; without it one in the run's folder.")
ROWS = flags.DEFINE_integer("rows", None, "Without it one a class, or some.", 1)
COLUMNS = flags.DEFINE_integer("columns", None, "Of the picture; 10 samples of a grid.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the latents.", 0, 2**32 - 1)
CLASSES = flags.DEFINE_string("classes", None, "Of the rows, as 3,1,4; without it all in turn.")
PCA = flags.DEFINE_bool("pca", False, "Directions are GANSpace's instead of SeFa's.")

MOST_IMAGES = 10_000  # of a picture
MOST_ROWS = 100  # of a picture, where nobody asks for more
MOST_FRAMES = 100  # of a timeline
ANCHORS, FRAMES_BETWEEN = 4, 12  # of a walk
DEVIATIONS = 3  # that a latent moves along a direction
HELD_OUT = 500  # images that samples' distances are compared with


class Run(NamedTuple):
    """What a checkpoint was opened as."""

    workdir: Path
    config: ConfigDict
    dataset: data.Dataset
    gan: gans.Gan
    state: gans.GanState

    @property
    def title(self) -> str:
        return f"{self.workdir.name}, step {int(self.state.step):,}"


class Mode(NamedTuple):
    """A line of MODES.

    Attributes:
      make: writes the second path's file out of the first path's run.
      file: its name in the run's folder where --out names none.
      endings: those of its files; none: any but a picture's.
      flags: those that change something.
    """

    make: Callable[[Path, Path], None]
    file: str
    endings: tuple[str, ...]
    flags: tuple[str, ...]


def main(argv: list[str]) -> None:
    del argv
    if not cli.WORKDIR.value:
        raise app.UsageError("--workdir=DIR is missing: the folder of a run")
    if (ROWS.value or 1) * (COLUMNS.value or 1) > MOST_IMAGES:
        raise app.UsageError(f"--rows times --columns is at most {MOST_IMAGES:,} images")
    workdir = Path(os.path.expanduser(cli.WORKDIR.value))
    mode = MODES[MODE.value]
    for name in ("step", "truncation", "rows", "columns", "seed", "classes", "pca"):
        if flags.FLAGS[name].present and name not in mode.flags:
            heeded = ", ".join(f"--{name}" for name in mode.flags) or "--out alone"
            raise app.UsageError(
                f"--{name} changes nothing in --mode={MODE.value}, which heeds {heeded}"
            )
    out = Path(os.path.expanduser(OUT.value)) if OUT.value else workdir / mode.file
    ending = out.suffix.lower()
    if ending not in mode.endings if mode.endings else ending in PICTURES:
        can = " or ".join(mode.endings) or "no picture"
        raise app.UsageError(f"--out={out}: --mode={MODE.value} writes {can}")
    if OUT.value and not out.parent.is_dir():
        raise app.UsageError(f"--out={out}: there is no folder {out.parent}")
    place = out if out.exists() else out.parent
    if out.is_dir() or (place.exists() and not os.access(place, os.W_OK)):
        raise app.UsageError(f"{out}: no file can be written there")
    try:
        mode.make(workdir, out)
    except FloatingPointError as error:
        raise app.UsageError(f"{workdir}: {error}") from error
    print(out)


def open_run(workdir: Path, images: bool = False) -> Run:
    """The run of a folder, at --step.

    Args:
      workdir: the folder.
      images: points will not do.
    Raises:
      app.UsageError: it is no run, is of a network that is not here, has no such checkpoint, or
        has points.
    """
    config = cli.restore_config(runs.flatten(runs.read_config(workdir)))
    checks.check_values(config)
    dataset = data.load(config)
    if images and dataset.spec.kind != "image":
        raise app.UsageError(f"--mode={MODE.value} is of images, and {config.dataset} has points")
    gan = gans.make_gan(config, dataset.spec)
    chosen_classes(gan, config)
    abstract_state = gans.abstract_state(gan, config)
    with runs.open_checkpoints(workdir) as checkpoints:
        step = cli.choose_step(checkpoints.steps(), STEP.value)
        state = checkpoints.restore(abstract_state, step)
    return Run(workdir, config, dataset, gan, state)


def chosen_classes(gan: gans.Gan, config: ConfigDict) -> list[int]:
    """--classes, or all of them; none of a GAN without labels.

    Raises:
      app.UsageError: it is no list of classes, or the GAN is given no labels.
    """
    if CLASSES.value is None:
        return list(range(gan.num_classes))
    if not gan.num_classes:
        raise app.UsageError(
            f"--classes={CLASSES.value}: this GAN of {config.dataset} is given no labels"
        )
    words = CLASSES.value.split(",")
    wrong = [word for word in words if not word.isdecimal() or int(word) >= gan.num_classes]
    if wrong:
        raise app.UsageError(
            f"--classes={CLASSES.value}: {wrong[0]!r} is no class: they are 0 to "
            f"{gan.num_classes - 1}"
        )
    return [int(word) for word in words]


def row_labels(run: Run, otherwise: int, most: int = MOST_ROWS) -> tuple[int, np.ndarray | None]:
    """How many rows, and the class of each: int32 [rows], None of a GAN without labels.

    Args:
      run: its GAN.
      otherwise: rows where there are no classes and nobody says.
      most: rows where nobody says.
    """
    classes = chosen_classes(run.gan, run.config)
    rows = ROWS.value or min(len(classes), most) or otherwise
    return rows, np.resize(classes, rows).astype(np.int32) if classes else None


def averaged(run: Run) -> gans.Network:
    """`state.average`, with the standing statistics of --seed where the GAN has them."""
    with jax.default_matmul_precision("highest"):
        key = jax.random.fold_in(jax.random.key(SEED.value), 1)
        network = gans.standing_statistics(run.gan, run.state.average, key, TRUNCATION.value)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(network)):
        raise FloatingPointError("the generator's weights hold NaN or infinite numbers")
    return network


def drawn_latents(run: Run, num: int) -> np.ndarray:
    """float32 [num, latent_dim], of --seed and --truncation."""
    key = jax.random.key(SEED.value)
    return np.asarray(gans.draw_latents(run.gan, key, num, TRUNCATION.value))


def names(labels: np.ndarray | None) -> list[str]:
    return [] if labels is None else [str(label) for label in labels]


def grid(workdir: Path, out: Path) -> None:
    """Samples, a class a row where there are labels; on all devices."""
    with devices.used(devices.make_mesh()):
        run = open_run(workdir)
        rows, of_rows = row_labels(run, otherwise=10)
        columns = COLUMNS.value or 10
        labels = None if of_rows is None else np.repeat(of_rows, columns)
        key, num = jax.random.key(SEED.value), rows * columns
        fake = scores.draw(run.gan, run.state.average, key, num, labels, TRUNCATION.value)
    if labels is None or fake.ndim != 4:
        pictures.draw(fake, run.dataset.images, columns).save(out)
        return
    fake = fake.reshape(rows, columns, *fake.shape[1:])
    pictures.table(fake, f"{run.title}: a class a row", names(of_rows)).save(out)


def walk(workdir: Path, out: Path) -> None:
    """Every image moves through latents of its own and back, within the class of its row."""
    run = open_run(workdir, images=True)
    rows, of_rows = row_labels(run, otherwise=4, most=10)
    moving = out.suffix.lower() == ".gif"
    columns = COLUMNS.value or (6 if moving else 13)
    walks = columns if moving else 1  # of a row
    anchors = drawn_latents(run, ANCHORS * rows * walks).reshape(ANCHORS, rows * walks, -1)
    frames = ANCHORS * FRAMES_BETWEEN if moving else columns
    positions = np.linspace(0, ANCHORS, frames, endpoint=not moving, dtype=np.float32)
    path = np.asarray(latents.walk(jax.numpy.asarray(anchors), jax.numpy.asarray(positions)))
    labels = None if of_rows is None else np.tile(np.repeat(of_rows, walks), frames)
    shown = latents.render(run.gan, averaged(run), path.reshape(-1, run.gan.latent_dim), labels)
    shown = shown.reshape(frames, rows, walks, *shown.shape[1:])
    title = f"{run.title}: walks through {ANCHORS} latents"
    if moving:
        pictures.save_gif([pictures.table(x, title, names(of_rows)) for x in shown], out, 80)
        return
    heads = [f"{position / ANCHORS:.0%}" for position in positions]
    pictures.table(shown[:, :, 0].swapaxes(0, 1), title, names(of_rows), heads).save(out)


def timeline(workdir: Path, out: Path) -> None:
    """The pictures that training has drawn, always of the same latents, with their steps."""
    runs.read_config(workdir)
    files = list(runs.sample_paths(workdir).items())
    if not files:
        raise app.UsageError(f"{workdir} has no pictures in samples/: sample_every draws them")
    moving = out.suffix.lower() == ".gif"
    if moving and COLUMNS.value:
        raise app.UsageError("--columns is of a strip: with --out=FILE.png")
    num = min(len(files), MOST_FRAMES if moving else COLUMNS.value or 8)
    chosen = np.linspace(0, len(files) - 1, num).round().astype(int)
    frames = []
    for step, file in (files[i] for i in chosen):
        try:
            picture = Image.open(file).convert("RGB")
        except (OSError, SyntaxError) as error:
            raise app.UsageError(f"{file} cannot be read: {error}") from error
        frames.append(pictures.captioned(picture, f"{workdir.name}, step {step:,}"))
    if moving:
        pictures.save_gif(frames, out, 200, last=1500)
    else:
        pictures.side_by_side(frames).save(out)


def directions(workdir: Path, out: Path) -> None:
    """A latent moved along a direction a row."""
    run = open_run(workdir, images=True)
    classes = chosen_classes(run.gan, run.config)
    if CLASSES.value and len(classes) > 1:
        raise app.UsageError(f"--classes={CLASSES.value}: directions are shown of one class")
    rows, columns = min(ROWS.value or 8, run.gan.latent_dim), COLUMNS.value or 7
    network = averaged(run)
    if PCA.value:
        key = jax.random.fold_in(jax.random.key(SEED.value), 2)
        label = classes[0] if classes else 0
        found = latents.principal_directions(run.gan, network, key, rows, label)
        title = "principal directions (GANSpace), with the components' deviations"
    else:
        try:
            weight = latents.first_weight(run.gan, network)
        except LookupError as error:
            raise app.UsageError(f"--mode=directions: {error}: try --pca") from error
        found = latents.semantic_directions(weight)
        title = "closed-form directions (SeFa), with the first weight's singular values"
    rows = min(rows, len(found.vectors))
    moves = np.linspace(-DEVIATIONS, DEVIATIONS, columns) if columns > 1 else np.zeros(1)
    moved = drawn_latents(run, 1) + moves[:, None] * found.vectors[:rows, None]
    labels = np.full(rows * columns, classes[0], np.int32) if classes else None
    shown = latents.render(run.gan, network, moved.reshape(-1, run.gan.latent_dim), labels)
    pictures.table(
        shown.reshape(rows, columns, *shown.shape[1:]),
        f"{run.title}: {title}",
        [f"{i + 1}: {value:.3g}" for i, value in enumerate(found.values[:rows])],
        [f"{move:+.2g} sd" if move else "0" for move in moves],
    ).save(out)


def invert(workdir: Path, out: Path) -> None:
    """Held-out images, what the generator makes that is nearest, and what is between them.

    The generator's own images, inverted in the same way, tell the method's error apart.
    """
    run = open_run(workdir, images=True)
    held_out = data.load_held_out(run.config)
    if held_out is None:
        raise app.UsageError(f"--mode=invert: of {run.config.dataset} nothing is held out")
    num = min(COLUMNS.value or 8, len(held_out.images))
    images, network = held_out.images[:num], averaged(run)
    labels = None
    if run.gan.num_classes:
        if held_out.labels is None:
            raise app.UsageError("--mode=invert: the held-out images have no labels")
        labels = held_out.labels[:num]
    own = latents.render(run.gan, network, drawn_latents(run, num), labels)
    targets = np.concatenate([images, own])
    look = None
    if features.has_classifier(run.config.dataset, run.dataset.spec.shape):
        look = features.classifier(run.config.dataset, run.dataset.spec.shape).apply
    embed = latents.make_embedding(targets, look)
    key = jax.random.fold_in(jax.random.key(SEED.value), 2)
    labels = None if labels is None else np.concatenate([labels, labels])
    found = latents.invert(run.gan, network, embed, targets, labels, key)
    nearest, made = (
        latents.render(run.gan, network, chosen, labels)
        for chosen in (found.nearest, found.latents)
    )
    errors, errors_nearest = (latents.pixel_error(x, targets) for x in (made, nearest))
    shown = [pictures.in_colour(x) for x in (images, made[:num])]
    shown += [pictures.difference(made[:num], images), pictures.in_colour(nearest[:num])]
    rows = ["held-out", "inverted", "difference", "nearest random"]
    captions = [
        [""] * num if labels is None else names(labels[:num]),
        [f"{x:.3f}" for x in errors[:num]],
        [""] * num,
        [f"{x:.3f}" for x in errors_nearest[:num]],
    ]
    title = f"{run.title}: inverted images, with their pixels' error (RMS, of 1)"
    pictures.table(np.stack(shown), title, rows, captions=captions).save(out)
    print("Error of pixels, root mean square, of a range of 1:")
    print(f"  held-out images, inverted        {errors[:num].mean():.4f}")
    print(f"  nearest of random samples        {errors_nearest[:num].mean():.4f}")
    print(f"  its own samples, inverted        {errors[num:].mean():.4f}")
    print(f"  nearest of random samples        {errors_nearest[num:].mean():.4f}")
    norms = (np.linalg.norm(x[:num], axis=1).mean() for x in (found.latents, found.nearest))
    print("Norm of the latents: {:.1f}, of random ones {:.1f}".format(*norms))


def neighbours(workdir: Path, out: Path) -> None:
    """Samples, and the training images nearest to each, in pixels and as the classifier sees it."""
    run = open_run(workdir, images=True)
    rows, of_rows = row_labels(run, otherwise=8, most=10)
    images = run.dataset.images
    if run.dataset.streamed:
        data.check_memory(run.config.dataset, images.shape)
        images = np.asarray(images)
    k = min(COLUMNS.value or 4, len(images))
    config = ConfigDict(run.config.to_dict() | {"eval_features": None})  # the classifier, if any
    judge = scores.make_judge(config, run.dataset)
    fake = latents.render(run.gan, averaged(run), drawn_latents(run, rows), of_rows)
    held_out = judge.held_out.images[:HELD_OUT] if judge.held_out else fake[:0]
    unit = np.sqrt(fake[0].size) * 255  # distances of pixels are root mean squares, of 1
    kinds = [("pixels", images, fake, held_out, unit)]
    for view in judge.views:
        both, _ = features.compute(view, np.concatenate([fake, held_out]))
        seen = scores.reals(judge, view).features
        kinds.append((view.suffix, seen, both[:rows], both[rows:], 1.0))
    shown, heads, captions = [fake[:, None]], ["sample"], [[""] for _ in range(rows)]
    for name, real, samples, others, unit in kinds:
        indices, distances = metrics.nearest(samples, real, k)
        distances /= unit
        shown.append(images[indices])
        heads += [f"{name} {i + 1}" for i in range(k)]
        line = f"{name:12} nearest training image: samples {np.median(distances[:, 0]):.3g}"
        usual = np.empty(0)
        if len(others):
            usual = metrics.nearest(others, real)[1][:, 0] / unit
            line += f", held-out images {np.median(usual):.3g} (medians)"
        print(line)
        for r in range(rows):
            captions[r] += [f"{x:.3g}" for x in distances[r]]
            if len(usual):
                captions[r][-k] += f" ({np.mean(usual < distances[r, 0]):.0%})"
    title = f"{run.title}: samples and the nearest training images, with distances"
    title += " (and how many held-out images are nearer to one)" * bool(len(held_out))
    table = np.concatenate(shown, axis=1)
    breaks = [1 + k * i for i in range(len(kinds))]
    pictures.table(table, title, names(of_rows), heads, captions, breaks).save(out)


def export(workdir: Path, out: Path) -> None:
    """The generator as one file; exports.py says how to read it, and for how long one can."""
    run = open_run(workdir)
    for name in ("seed", "truncation"):
        if flags.FLAGS[name].present and not run.gan.standing_batches:
            raise app.UsageError(
                f"--{name} changes nothing in --mode=export without standing_statistics"
            )
    out.write_bytes(exports.export(run.gan, averaged(run)).serialize())


PICTURES = (*encoded.IMAGE_SUFFIXES, ".pdf")
MOVING = (".gif", ".png")
DRAWN = ("step", "truncation", "rows", "columns", "seed", "classes")
MODES = {
    "grid": Mode(grid, "samples.png", PICTURES, DRAWN),
    "walk": Mode(walk, "walk.gif", MOVING, DRAWN),
    "timeline": Mode(timeline, "timeline.gif", MOVING, ("columns",)),
    "directions": Mode(directions, "directions.png", PICTURES, (*DRAWN, "pca")),
    "invert": Mode(invert, "invert.png", PICTURES, ("step", "columns", "seed")),
    "neighbours": Mode(neighbours, "neighbours.png", PICTURES, DRAWN),
    "export": Mode(export, "generator.jax", (), ("step", "seed", "truncation")),
    "report": Mode(report.write_run_page, "report.html", (".html",), ()),
}
MODE = flags.DEFINE_enum("mode", "grid", list(MODES), "What is made: see above.")

if __name__ == "__main__":
    cli.run(main)
