"""Generated mistakes: each is a run, or one line and exit code 2; no traceback, no hang.

The short forms are among the other tests; `make test-long` runs 2,000 configs and 500 broken files.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import requests
from conftest import ROOT, Outcome
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from test_data import make_idx_files

import cli
import data
import features
import tfds_builders
from augment import D_AUGMENTATIONS
from configs import default, recipes
from losses import LOSSES
from models import DISCRIMINATORS, GENERATORS, network_fields
from optimizers import OPTIMIZERS
from penalties import PENALTIES

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds of the processor that a command has; and six times that by the clock
MEMORY = 2**30  # bytes that the machine is said to have: what needs more is refused, not tried


def examples(num: int) -> settings:
    """So many, the same ones every time; what fails is shown as it is, for commands are slow."""
    return settings(
        max_examples=num,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class Hang(BaseException):
    """A command takes too long; a TimeoutError would be an OSError, which is caught."""


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Raises Hang inside what takes longer; a busy machine alone makes nothing hang."""

    def stop(*_: object) -> None:
        raise Hang(f"it took more than {seconds} seconds of the processor, or {6 * seconds}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(6 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def attempt(command, tmp_path, monkeypatch):
    """attempt(words): their outcome, which is a run, or one line and no folder.

    Every call has a folder of its own, `attempt.counts` how each ended.
    """
    counts: collections.Counter = collections.Counter()
    places = (tmp_path / f"run_{i}" for i in itertools.count())

    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError("a fuzzed command downloads nothing")

    reach = requests.sessions.Session.request

    def request(self, method: str, url: str, **rest: object) -> requests.Response:
        return reach(self, method, url, **rest) if "//127.0.0.1:" in url else refuse()

    monkeypatch.setattr(requests.sessions.Session, "request", request)
    monkeypatch.setattr(data, "host_memory", lambda: MEMORY)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # of whatever a command makes by a relative name

    def run(*words: str, describe: bool = False, downloads: bool = False) -> Outcome:
        workdir = next(places)
        before = set(os.listdir(tmp_path))
        last = "--describe" if describe else f"--workdir={workdir}"
        with in_time(PATIENCE):
            outcome = command("train.py", *words, last)
        assert outcome.code in (0, 1, 2), outcome
        assert "Traceback" not in outcome.err + outcome.out
        made = set(os.listdir(tmp_path)) - before - {"cache"}
        if outcome.code == 2:
            counts["refused"] += 1
            *before_it, line = outcome.err.splitlines()
            assert line.startswith("train.py: "), outcome
            assert len(line) > len("train.py: "), outcome
            assert downloads or (before_it, outcome.out) == ([], ""), outcome  # TFDS shows how far
            assert outcome.compilations == 0
            assert not made
        elif describe:
            counts["described"] += 1
            assert (outcome.code, outcome.err, made) == (0, "", set()), outcome
        else:
            counts["trained"] += 1
            check_run(workdir, outcome)
            shutil.rmtree(workdir)
        if sum(counts.values()) % 100 == 0:
            jax.clear_caches()  # compiled programs would fill the memory
        return outcome

    run.counts = counts
    return run


def check_run(workdir: Path, outcome: Outcome) -> None:
    """A run of one step: its folder is whole, and code 1 says that a number is not finite."""
    config = json.loads((workdir / "config.json").read_text())
    runs = [workdir]
    if config["population"] > 1:
        runs = [path.parent for path in workdir.glob("*/config.json")]
        assert len(runs) == config["population"]
    for run in runs:
        json.loads((run / "env.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lost = any(value is None for row in rows for value in row.values())
        if config["population"] == 1:
            assert outcome.code == int(lost), outcome
        if lost:
            assert "not finite" in outcome.err
        elif config["checkpoint_every"] and config["num_steps"]:
            assert list((run / "checkpoints").iterdir())
    assert not list(workdir.rglob("*.partial"))


# Configs


NAMES = {
    "loss": list(LOSSES),
    "generator.name": list(GENERATORS),
    "discriminator.name": list(DISCRIMINATORS),
    "optimizer.generator.name": list(OPTIMIZERS),
    "optimizer.discriminator.name": list(OPTIMIZERS),
    "generator.condition": ["concat", "norm"],
    "discriminator.condition": ["concat", "projection", "acgan"],
    "discriminator.norm": ["none", "spectral", "layer", "batch"],
    "discriminator.pool": ["sum", "mean"],
    "precision": ["float32", "bfloat16"],
    "on_nan": ["stop", "rollback"],
    "dataset": ["digits", "ring", "grid", "mnist", "stacked_mnist", "folder:.", "folder:", "."],
    "eval_features": ["classifier", "inception", "classifier,classifier", ","],
    "best_metric": ["eval/fd_classifier", "eval/modes", "train/d_loss", "eval/"],
    "target.metric": ["train/d_loss", "train/r1", "eval/fd_classifier", "train/"],
    "data_dir": [".", "/nowhere", "~"],
    "inception_weights": [".", "/nowhere", "~"],
    "recipe": ["dcgan"],
}
TYPICAL = {
    int: ["0", "1", "2", "3", "4", "8"],
    float: ["0", "0.1", "0.5", "0.9", "1", "2", "10"],
    bool: ["True", "False", "true", "0", "1"],
    tuple: ["(4,)", "(4, 8)", "4,", "(4, 4, 4)"],
}
EXTREMES = {
    int: ["-1", "7", "16", "101", "1297", "1298", "10000", "1000000", "2147483647", "2147483648",
          "4294967295", "4294967296", "9223372036854775807", "9223372036854775808",
          "1" + "0" * 30, "-1" + "0" * 30, "1" + "0" * 200, "1" + "0" * 350, "9" * 4300, "9" * 5000],
    float: ["-1", "nan", "inf", "-inf", "1e308", "-1e308", "1e400", "1e38", "3.5e38", "1e-38",
            "1e-45", "1e-50", "-1e-50", "-0.0", "1e-320", "0.9999999999", "1.0000001", "9" * 400],
    bool: ["2", "-1", "yes", "nan", ""],
    tuple: ["()", "(0,)", "(-1,)", "(1.5,)", "('a',)", "((4,),)", "(4, 4, 4, 4, 4)", "[4]",
            "(True,)", "(None,)", "4", "(" * 300, "(4,) * 9", "(1000000000,)", "(10**9,)",
            "(1" + "0" * 30 + ",)", "{4}", "(nan,)", "(1e999,)", "(4" + ",4" * 2_000 + ")"],
}  # fmt: skip
STRANGE = [
    "", " ", "None", "none", "null", "True", "0x10", "1_000", "1e3", "1.0", "x\ny", "\n", "'", '"',
    "'a'", "a\tb", "\u2028", "é", "日本", "💥", "\x1b[31m", "\udcff", "x" * 10_000, "{}", "[]", "(1, 2)",
    "--config.seed=1", "=", "==", "%s", "{seed}", "$HOME", "../..", "/", "~", "\\", "a=b: c",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FIELDS = cli.field_types(default.get_config())
MISSPELT = ["", ".", "los", "loss.", ".loss", "loss[0]", "generator", "generator.", "LOSS", "é", "a b",
            "generator.widths[0]", "optimizer.generator.learning_rat", "seed.x", "\n", "keys"]  # fmt: skip
PAGES = [
    *(("digits", recipe) for recipe in recipes.RECIPES if recipe != "r3gan_cifar10"),
    *(("ring", recipe) for recipe in ("goodfellow", "mescheder", "sngan", "wgan", "cgan", "lecam")),
]
# Most draws are of what matters, and reaches deep: penalties, augmentations and names.
OFTEN = [
    *NAMES,
    *(f"penalties.{name}" for name in PENALTIES),
    *(f"d_augment.{name}" for name in D_AUGMENTATIONS),
    *("conditional", "balanced", "packing", "accumulate", "resolution", "d_steps", "decay_images"),
    *("augment.flip", "augment.crop", "lazy_every", "ada_target", "weight_clip", "population"),
]
SIZES = [field for field, kind in FIELDS.items() if kind is int]


class Command(NamedTuple):
    """A page and a recipe, fields by name, and whether a step is trained."""

    page: str
    recipe: str
    fields: dict[str, str]
    trains: bool

    def words(self) -> list[str]:
        """As on a command line; networks that nothing else is said of are tiny."""
        small = {"batch_size": "8", "num_steps": "1", "log_every": "1"}
        page = f"{ROOT}/configs/{self.page}.py:{self.recipe}"
        config = cli.load_config(page)
        for player, networks in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
            name = self.fields.get(f"{player}.name", config[player].name)
            for field in network_fields(networks[name]) if name in networks else ():
                tiny = {"width": "4", "widths": "(4,)", "blocks": "1"}.get(field)
                if tiny:
                    small[f"{player}.{field}"] = tiny
        chosen = small | self.fields
        return [
            f"--config={page}",
            *(f"--config.{field}={value}" for field, value in chosen.items()),
        ]


def values(field: str) -> st.SearchStrategy[str]:
    """Mostly what the field may be, often what is of its type, seldom anything."""
    kind = FIELDS.get(field, str)
    usual = NAMES.get(field) or TYPICAL.get(kind, STRANGE)
    extreme = EXTREMES.get(kind, STRANGE)
    wrong = [*STRANGE, *itertools.chain(*TYPICAL.values())]
    choices = [usual] * 8 + [extreme] * 3 + [wrong]
    known = st.integers(0, len(choices) - 1).flatmap(lambda i: st.sampled_from(choices[i]))
    anything: list[st.SearchStrategy] = [known] * 15 + [TEXT]
    if kind is int:
        anything.append(st.integers().map(str))
    if kind is float:
        anything.append(st.floats().map(str))
    return st.one_of(anything)


@st.composite
def commands(draw) -> Command:
    names = st.one_of(*map(st.sampled_from, (OFTEN, OFTEN, sorted(FIELDS), SIZES)))
    page, recipe = draw(st.sampled_from(PAGES))
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    fields = {field: draw(values(field)) for field in chosen}
    if draw(st.integers(0, 29)) == 17:
        fields[draw(st.sampled_from(MISSPELT))] = draw(st.sampled_from(STRANGE))
    short = all(fields.get(name, "1") in TYPICAL[int] for name in ("num_steps", "population"))
    return Command(page, recipe, fields, draw(st.booleans()) and short)


def fuzz_configs(attempt, num: int, part: int | None = None) -> None:
    """So many commands; half of the short ones that are no mistake train a step, the rest describe it."""

    seen: set[str] = set()

    @examples(num)
    @given(commands())
    def try_one(command: Command) -> None:
        assume(str(command) not in seen)
        seen.add(str(command))
        attempt(*command.words(), describe=not command.trains)

    (try_one if part is None else seed(part)(try_one))()
    print(dict(attempt.counts))
    assert attempt.counts["trained"] > num // 50
    assert attempt.counts["refused"] > num // 4


def test_configs(attempt):
    fuzz_configs(attempt, 30)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, 9))
def test_many_configs(attempt, part):
    fuzz_configs(attempt, 250, part)


# Files


class Damage(NamedTuple):
    """What happens to one file: where, as a share of its length, and how."""

    kind: str
    place: float
    noise: bytes

    def __call__(self, content: bytes) -> bytes:
        start = int(self.place * len(content))
        end = start + len(self.noise)
        match self.kind:
            case "flip":
                flipped = bytes(a ^ b for a, b in zip(content[start:], self.noise))
                return content[:start] + flipped + content[start + len(flipped) :]
            case "cut":
                return content[:start]
            case "empty":
                return b""
            case "head":
                return self.noise + content[len(self.noise) :]
            case "insert":
                return content[:start] + self.noise + content[start:]
            case "lose":
                return content[:start] + content[end:]
            case "append":
                return content + self.noise
            case "repeat":
                return content * 2
            case "noise":
                return self.noise
        return content


damages = st.builds(
    Damage,
    st.sampled_from(
        [
            "flip",
            "flip",
            "flip",
            "cut",
            "empty",
            "head",
            "insert",
            "lose",
            "append",
            "repeat",
            "noise",
        ]
    ),
    st.floats(0, 1) | st.sampled_from([0, 0.02, 0.05, 0.1, 0.98]),
    st.binary(min_size=1, max_size=40),
)
ODD_NAMES = ["a b.png", "é.png", "x\ny.png", ".png", ".hidden.png", "..png", "-x.png", "%s.png", "💥.PNG",
             "x.png.txt", "x", "x.jpeg", "x.tiff", "x.gif", "x.webp", "x.bmp", "x" * 250 + ".png"]  # fmt: skip
HAPPENINGS = ["rename", "delete", "replace by a folder", "link", "dangling link", "link to itself", "link to all",
              "pipe", "unreadable", "nest", "double"]  # fmt: skip


class Happening(NamedTuple):
    """What happens to a file of a folder, other than to its content."""

    kind: str
    name: str

    def __call__(self, file: Path) -> None:
        if not os.path.lexists(file):  # an earlier one took it
            return
        other = file.parent / self.name
        if other.is_dir() and not other.is_symlink():
            other = other / "x.png"
        match self.kind:
            case "rename":
                file.rename(other)
            case "delete":
                file.unlink()
            case "replace by a folder":
                file.unlink()
                file.mkdir()
            case "link":  # out of the folder
                target = file.parent.parent.parent / "outside.png"
                file.replace(target)
                file.symlink_to(target)
            case "dangling link":
                file.unlink()
                file.symlink_to("nowhere")
            case "link to itself":
                file.unlink()
                file.symlink_to(file.name)
            case "link to all":
                file.unlink()
                file.symlink_to(file.parent.parent)
            case "pipe":  # of which nobody is at the other end
                file.unlink()
                os.mkfifo(file)
            case "unreadable":
                if not file.is_symlink():
                    file.chmod(0)
            case "nest":
                (file.parent / "deep" / "er").mkdir(parents=True, exist_ok=True)
                file.rename(file.parent / "deep" / "er" / file.name)
            case "double":
                if not os.path.lexists(other) and file.is_file():
                    shutil.copyfile(file, other)


happenings = st.builds(Happening, st.sampled_from(HAPPENINGS), st.sampled_from(ODD_NAMES))


def change(
    root: Path, changes: list[tuple[float, Damage | Happening]], pattern: str = "**/*"
) -> None:
    """Does what happens to the files below a folder, each chosen by a share of their number."""
    for share, what in changes:
        files = sorted(x for x in root.glob(pattern) if x.is_symlink() or not x.is_dir())
        if not files:
            return
        file = files[min(int(share * len(files)), len(files) - 1)]
        if isinstance(what, Happening):
            what(file)
        elif file.is_file() and os.access(file, os.R_OK | os.W_OK):
            file.write_bytes(what(file.read_bytes()))


def changes(*what: st.SearchStrategy) -> st.SearchStrategy[list]:
    return st.lists(st.tuples(st.floats(0, 1), st.one_of(*what)), min_size=1, max_size=3)


def encoded(array: np.ndarray, name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, name)
    return buffer.getvalue()


SHAPES = [(8, 8), (8, 8, 3), (8, 9), (1, 1), (4, 4), (64, 2)]
# A picture that claims to be larger than it is, whose decoding would take all memory.
HUGE = encoded(np.zeros((8, 8), np.uint8), "PNG").replace(
    b"\0\0\0\x08\0\0\0\x08", b"\0\0\x7f\xff\0\0\x7f\xff"
)
PICTURES = [HUGE, b"", b"no picture"]
for shape, kind in itertools.product(SHAPES, ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")):
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    PICTURES.append(encoded(noise, kind))
PICTURES.append(encoded(np.zeros((8, 8), np.uint16), "PNG"))
PICTURES.append(encoded(np.zeros((8, 8, 4), np.uint8), "PNG"))
PICTURES.append(encoded(np.zeros((8, 8), bool), "PNG"))
PICTURES.append(encoded(np.zeros((8, 8), np.float32), "TIFF"))

SMALL = (
    f"--config={ROOT}/configs/digits.py:goodfellow",
    *("--config.batch_size=2", "--config.num_steps=1", "--config.log_every=1"),
    *("--config.generator.width=4", "--config.discriminator.width=4", "--config.eval_every=0"),
)


def fuzz_folders(attempt, tmp_path, num: int) -> None:
    """Folders of six images, in two folders or none: damaged, renamed, linked, or others' images."""
    places = (tmp_path / f"place_{i}" for i in itertools.count())

    @examples(num)
    @given(
        changes(damages, damages, happenings),
        st.booleans(),
        st.sampled_from(["", "", "--config.resolution=8", "--config.conditional=True"]),
        st.lists(st.sampled_from(PICTURES), max_size=2),
    )
    def try_one(changes: list, classes: bool, word: str, others: list[bytes]) -> None:
        place = next(places)
        root = place / "images"
        for i in range(6):
            kind = "JPEG" if i % 3 == 2 else "PNG"
            folder = root / ("cats", "dogs")[i % 2] if classes else root
            folder.mkdir(parents=True, exist_ok=True)
            grey = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
            (folder / f"{i}.{kind.lower()}").write_bytes(encoded(grey, kind))
        for i, content in enumerate(others):
            (folder / f"other_{i}.png").write_bytes(content)
        change(root, changes)
        attempt(*SMALL, f"--config.dataset=folder:{root}", *filter(None, [word]))
        shutil.rmtree(place)

    try_one()


def serve_idx(serve_folder, monkeypatch, root: Path) -> None:
    """Lets TFDS's builder of MNIST find four small idx files, or what has become of them, in `root`."""
    root.mkdir()
    files, _ = make_idx_files(np.random.default_rng(0))
    for name, content in files.items():
        (root / name).write_bytes(content)
    url = serve_folder(root)
    monkeypatch.setattr(tfds_builders.Mnist, "URL", url)
    set_checksums(monkeypatch, root, url)


def set_checksums(monkeypatch, root: Path, url: str) -> None:
    """The builder expects the files as they are now: what is damaged is read, not refused unread."""
    kind = type(next(iter(tfds_builders.mnist.MNIST.url_infos.values())))
    infos = {}
    for names in tfds_builders.IDX_FILES.values():
        for name in names:
            content = (root / name).read_bytes() if (root / name).is_file() else b""
            infos[url + name] = kind(
                size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name
            )
    monkeypatch.setattr(tfds_builders.Mnist, "url_infos", infos)


def header(file: Path, numbers: tuple[int, int]) -> None:
    """Another number in an idx file's header, or in any of its bytes."""
    try:
        content = bytearray(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, zlib.error):
        return
    place, value = numbers
    if place < len(content):
        content[place] = value
        file.write_bytes(gzip.compress(bytes(content), mtime=0))


def fuzz_idx(attempt, tmp_path, serve_folder, monkeypatch, num: int) -> None:
    """The original files of MNIST, as they come from where TFDS downloads them."""
    root = tmp_path / "www"
    serve_idx(serve_folder, monkeypatch, root)
    url, files = tfds_builders.Mnist.URL, {x: x.read_bytes() for x in root.iterdir()}
    places = (tmp_path / f"tfds_{i}" for i in itertools.count())

    @examples(num)
    @given(
        changes(damages, st.tuples(st.integers(0, 40), st.integers(0, 255))),
        st.sampled_from([True, True, True, False]),
    )
    def try_one(changes: list, expected: bool) -> None:
        for file, content in files.items():
            file.write_bytes(content)
        set_checksums(monkeypatch, root, url)
        names = sorted(files)
        for share, what in changes:
            file = names[min(int(4 * share), 3)]
            if isinstance(what, Damage):
                file.write_bytes(what(file.read_bytes()))
            else:
                header(file, what)
        if expected:
            set_checksums(monkeypatch, root, url)
        place = next(places)
        place.mkdir()
        words = (*SMALL, "--config.dataset=mnist", f"--config.data_dir={place}")
        outcome = attempt(*words, downloads=True)
        if outcome.code == 2:  # nothing is taken for prepared
            assert not list(place.glob("mnist/3.0.1"))
        shutil.rmtree(place, ignore_errors=True)  # TFDS may still be downloading another file

    try_one()


def fuzz_prepared(attempt, tmp_path, serve_folder, monkeypatch, num: int) -> None:
    """A prepared array_record data set of 30 images, and the cache of its arrays."""
    serve_idx(serve_folder, monkeypatch, tmp_path / "www")
    whole, place = tmp_path / "whole", tmp_path / "tfds"
    cache = tmp_path / "cache"
    words = (*SMALL, "--config.dataset=mnist")
    assert attempt(*words, f"--config.data_dir={whole}", downloads=True).code == 0
    shutil.rmtree(whole / "downloads")
    kept = shutil.copytree(cache, tmp_path / "kept")

    @examples(num)
    @given(changes(damages, damages, happenings), st.booleans())
    def try_one(changes: list, of_the_cache: bool) -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        shutil.rmtree(cache)
        if of_the_cache:  # which is found by names, sizes and times
            shutil.copytree(kept, cache)
            change(cache, changes, "**/mnist*.npz")
            outcome = attempt(*words, f"--config.data_dir={place}")
            assert outcome.code == 0, outcome
            return
        cache.mkdir()
        # TFDS itself would wait for a pipe.
        changes = [x for x in changes if not isinstance(x[1], Happening) or x[1].kind != "pipe"]
        change(place, changes)
        attempt(*words, f"--config.data_dir={place}")

    try_one()


def fuzz_weights(attempt, tmp_path, monkeypatch, num: int) -> None:
    """The files of weights that scores look through: another hash is another file."""
    scored = [word for word in SMALL if "eval_every" not in word]
    whole = (features.WEIGHTS / "digits.safetensors").read_bytes()
    shutil.copytree(features.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(features, "WEIGHTS", tmp_path / "weights")
    file, other = tmp_path / "weights/digits.safetensors", tmp_path / "inception.pth"

    @examples(num)
    @given(damages, st.booleans())
    def try_one(damage: Damage, inception: bool) -> None:
        content = damage(whole)
        if inception:
            other.write_bytes(content)
            words = ("--config.eval_features=inception", f"--config.inception_weights={other}")
            assert attempt(*scored, *words).code == 2
        else:
            file.write_bytes(content)
            assert attempt(*scored).code == (0 if content == whole else 2)

    try_one()


@pytest.mark.parametrize(
    "num", [20, pytest.param(250, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_folders(attempt, tmp_path, num):
    fuzz_folders(attempt, tmp_path, num)
    print(dict(attempt.counts))
    assert min(attempt.counts["trained"], attempt.counts["refused"]) >= num // 10


@pytest.mark.parametrize("num", [6, pytest.param(60, marks=pytest.mark.long)], ids=["few", "many"])
def test_idx_files(attempt, tmp_path, serve_folder, monkeypatch, num):
    fuzz_idx(attempt, tmp_path, serve_folder, monkeypatch, num)
    print(dict(attempt.counts))


@pytest.mark.parametrize(
    "num", [10, pytest.param(150, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_prepared_data(attempt, tmp_path, serve_folder, monkeypatch, num):
    fuzz_prepared(attempt, tmp_path, serve_folder, monkeypatch, num)
    print(dict(attempt.counts))


@pytest.mark.parametrize("num", [4, pytest.param(40, marks=pytest.mark.long)], ids=["few", "many"])
def test_weights(attempt, tmp_path, monkeypatch, num):
    fuzz_weights(attempt, tmp_path, monkeypatch, num)
    print(dict(attempt.counts))
