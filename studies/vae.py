"""GAN or VAE: the same decoder, data, steps, batch, optimiser and scores, side by side.

    python studies/vae.py
    python studies/vae.py --dataset=digits --num_steps=500 --out=/tmp  # a look, in a minute

The GAN is `mescheder` with a small convolutional generator. The VAE (Kingma and Welling 2014) has
that generator, the same Flax module, as its decoder, and the GAN's discriminator up to its last
layer as its encoder: it gives mean and log variance of a Gaussian of 100 latents. Both descend with
the generator's Adam, and of both the moving average is scored.

What the VAE says of an image: every pixel is Gaussian around the decoder's output, all with one
standard deviation, which weighs error against divergence. It is learnt (Rybkin et al. 2021), or, in
a second VAE, stated: 64 grey levels (0.5 in the images' scale), near the weight at which VAEs are
mostly shown. Bernoulli would be no likelihood of grey levels.

The bound is of grey levels, 0 to 255, with uniform noise of one level added (Theis et al. 2016,
section 3.1): the density of such an image bounds the probability of its levels from below. So it
compares with models of 8-bit images; 8 bits a pixel is what knows nothing. Binarised MNIST's nats
do not compare with it. A GAN has no such bound.

Samples of the VAE are scored twice: the decoder's output, as papers show it, and with the noise
that the model says is there, which is what the bound is of. Of the second VAE the output alone.

A second start goes on where the first has stopped; a VAE that was stopped on its way begins again.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import charts  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import gan as gans  # noqa: E402
import pictures  # noqa: E402
import runs  # noqa: E402
import scores  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402
from models import SLOPE  # noqa: E402
from optimizers import OPTIMIZERS, optimizer_fields  # noqa: E402

BASE = ["generator.name=dcgan", "generator.width=16", "batch_size=64", "sample_every=0"]
BASE += ["eval_every=0"]
LEVELS = 127.5  # grey levels in a unit of the images' scale, [-1, 1]
STATED = 0.5  # a pixel's deviation in that scale
GAN, MEANS, NOISY, WIDE, REAL = "GAN", "VAE", "VAE with noise", "VAE, 64 levels", "real, held out"
MODELS = GAN, MEANS, NOISY, WIDE
COLOURS = dict(zip(MODELS, charts.COLOURS))
SCORES = {
    "eval/fd_classifier": "Frechet distance",
    "sharpness": "sharpness",
    "eval/precision_classifier": "precision",
    "eval/recall_classifier": "recall",
    "eval/coverage_classifier": "coverage",
}
OF_VAE = {
    "bits": "bits a pixel",
    "nats": "nats",
    "divergence": "of them divergence",
    "deviation": "pixel's deviation",
    "error": "error of reconstruction",
}
SHOWN = 24, 4  # images of a grid, and its columns
BATCH = 500  # of held-out images
TIMED = 30  # steps

DATASET = flags.DEFINE_enum("dataset", "mnist", ["mnist", "digits"], "The images.")
OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figure and tables.")
RUNS = flags.DEFINE_string("runs", "runs/studies", "The folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 3_000, "Of each run.", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 5_000, "That are scored.", lower_bound=100)


class Encoder(nn.Module):
    """The hidden layers of `MLPDiscriminator`, then mean and log variance: [B, latent_dim] each."""

    latent_dim: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = images.reshape(len(images), -1)
        for _ in range(self.depth):
            hidden = nn.leaky_relu(nn.Dense(self.width)(hidden), SLOPE)
        mean, log_variance = jnp.split(nn.Dense(2 * self.latent_dim)(hidden), 2, axis=-1)
        return mean, log_variance


class Vae(NamedTuple):
    """What is fixed.

    Attributes:
      gan: whose generator decodes.
      encoder: of images.
      optimizer: the numbers of the generator's.
      half_life: of the moving average, in images.
      deviation: of a pixel, in the images' scale; None: it is learnt.
    """

    gan: gans.Gan
    encoder: Encoder
    optimizer: tuple[tuple[str, float], ...]
    half_life: float
    deviation: float | None = None


class Numbers(NamedTuple):
    """What is learnt: encoder, decoder, the log of a pixel's deviation; and batch statistics."""

    params: dict[str, Any]
    variables: dict[str, Any]


class VaeState(NamedTuple):
    """A VAE in training."""

    step: jax.Array
    numbers: Numbers
    opt_state: optax.OptState
    average: Numbers


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    read_config(0)
    rows = []
    for seed in range(SEEDS.value):
        for method in (GAN, MEANS, WIDE):
            found = train_and_score(method, seed)
            for row in found:
                figures = [f"{words} {row[name]:.3g}" for name, words in SCORES.items()]
                print(f"{row['model']}, seed {seed}: {', '.join(figures)}", flush=True)
            rows += found
    tables.write_csv(out / "vae.csv", rows)
    real = floor()
    (out / "vae.md").write_text(table(rows, real))
    draw(rows, real).savefig(out / "vae.png", dpi=100)


def read_config(seed: int) -> ConfigDict:
    """The config of the GAN; the VAE takes its numbers from there."""
    config = cli.load_config(f"{ROOT}/configs/{DATASET.value}.py:mescheder")
    words = [f"seed={seed}", f"num_steps={NUM_STEPS.value}", f"eval_samples={NUM_SAMPLES.value}"]
    return cli.with_overrides(config, [f"--config.{word}" for word in words + BASE])


@functools.cache
def prepared() -> starts.Prepared:
    """Data, networks and scores of all runs."""
    return starts.prepare(read_config(0))


def held_out() -> np.ndarray:
    """Images uint8 that nothing is trained on: the first NUM_SAMPLES of the test split."""
    dataset = prepared().judge.held_out
    assert dataset is not None
    return dataset.images[: NUM_SAMPLES.value]


def path(method: str, seed: int, suffix: str = "") -> Path:
    """A run's folder, or the file beside it."""
    numbers = map(str, (NUM_STEPS.value, NUM_SAMPLES.value, seed))
    words = [DATASET.value, method.replace(", ", "_"), *numbers]
    return Path(RUNS.value) / f"vae-{'-'.join(words).replace(' ', '_')}{suffix}"


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, diag(exp(log_variance))) || N(0, I)), nats: [B, D] to [B].

    Source: Kingma and Welling 2014, appendix B.
    """
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=-1)


def distortion(images: jax.Array, decoded: jax.Array, log_deviation: jax.Array) -> jax.Array:
    """-log N(images; decoded, exp(log_deviation)^2 I), nats: [B, ...] to [B]."""
    squares = jnp.square((images - decoded) / jnp.exp(log_deviation)) + math.log(2 * math.pi)
    return jnp.sum(0.5 * squares + log_deviation, axis=tuple(range(1, images.ndim)))


def dequantise(images: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 images with noise of one level, in the scale of `gan.to_float`: around [-1, 1].

    Source: Theis et al. 2016, section 3.1.
    """
    noise = jax.random.uniform(key, images.shape, minval=-0.5, maxval=0.5)
    return (images.astype(jnp.float32) + noise) / LEVELS - 1


def in_levels(nats: float, dimensions: int) -> float:
    """Negative log densities in the images' scale as ones of grey levels."""
    return nats + dimensions * math.log(LEVELS)


def make_vae(gan: gans.Gan, config: ConfigDict, deviation: float | None = None) -> Vae:
    """The VAE beside a GAN; its pixels' deviation is learnt where none is given."""
    fields = optimizer_fields(gan.generator_optimizer)
    numbers = config.optimizer.generator
    judge: Any = gan.discriminator
    return Vae(
        gan,
        Encoder(gan.latent_dim, judge.width, judge.depth),
        tuple((name, numbers[name]) for name in sorted(fields)),
        config.ema_half_life,
        deviation,
    )


def init(vae: Vae, key: jax.Array) -> VaeState:
    """The state before the first step; the decoder begins as the GAN's generator does."""
    encoder_key, key = jax.random.split(key)
    decoder, _ = gans.init_networks(vae.gan, key)
    images = jnp.zeros((2, *shape(vae)))
    params = {
        "encoder": vae.encoder.init(encoder_key, images)["params"],
        "decoder": decoder.params,
        "log_deviation": jnp.float32(-1),  # near where it goes, and Adam takes 0.001 a step
    }
    numbers = Numbers(params, decoder.variables)
    average = jax.tree.map(jnp.copy, numbers)
    return VaeState(jnp.int32(0), numbers, optimizer(vae).init(params), average)


def shape(vae: Vae) -> tuple[int, ...]:
    return vae.gan.generator.shape  # type: ignore[attr-defined]


def optimizer(vae: Vae) -> optax.GradientTransformation:
    return OPTIMIZERS[vae.gan.generator_optimizer](**dict(vae.optimizer))


def encode(vae: Vae, params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance [B, latent_dim] of the latents of images in [-1, 1]."""
    outputs: Any = vae.encoder.apply({"params": params["encoder"]}, images)
    return outputs


def log_deviation(vae: Vae, params: dict[str, Any]) -> jax.Array:
    """Of a pixel, learnt or stated."""
    return params["log_deviation"] if vae.deviation is None else jnp.log(vae.deviation)


def reparametrise(mean: jax.Array, log_variance: jax.Array, key: jax.Array) -> jax.Array:
    """A draw from the Gaussian, differentiable (Kingma and Welling 2014, section 2.4)."""
    return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)


def loss(
    vae: Vae, params: dict[str, Any], variables: dict[str, Any], images: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """The mean of the negative bound, nats, with batch statistics; and those after it.

    One latent an image (Kingma and Welling 2014, equation 7, L = 1).
    """
    noise_key, latent_key = jax.random.split(key)
    images = dequantise(images, noise_key)
    mean, log_variance = encode(vae, params, images)
    latents = reparametrise(mean, log_variance, latent_key)
    decoded, moved = vae.gan.generator.apply(
        {"params": params["decoder"], **variables},
        latents,
        None,
        train=True,
        mutable=list(variables),
    )
    nats = distortion(images, decoded, log_deviation(vae, params))  # type: ignore[arg-type]
    return jnp.mean(nats + divergence(mean, log_variance)), dict(moved)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(
    vae: Vae, state: VaeState, images: jax.Array, indices: jax.Array, key: jax.Array
) -> tuple[VaeState, jax.Array]:
    """One step on the images at `indices`; and the negative bound before it, nats."""
    (nats, variables), gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)(
        vae, *state.numbers, images[indices], jax.random.fold_in(key, state.step)
    )
    updates, opt_state = optimizer(vae).update(gradient, state.opt_state, state.numbers.params)
    numbers = Numbers(optax.apply_updates(state.numbers.params, updates), variables)  # type: ignore[arg-type]
    keep = 0.5 ** (vae.gan.batch_size / vae.half_life) if vae.half_life else 0.0
    average = jax.tree.map(lambda old, new: new + keep * (old - new), state.average, numbers)
    return VaeState(state.step + 1, numbers, opt_state, average), nats


@functools.partial(jax.jit, static_argnums=0)
def look(
    vae: Vae, numbers: Numbers, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of uint8 images [B, ...], with running statistics: what the bound is made of.

    Returns:
      distortion and divergence [B] of one latent each, nats in the images' scale; and the images
      that the means of their latents decode to, uint8.
    """
    noise_key, latent_key = jax.random.split(key)
    noisy, params = dequantise(images, noise_key), numbers.params
    mean, log_variance = encode(vae, params, noisy)
    latents = reparametrise(mean, log_variance, latent_key)
    decoder = as_network(numbers)
    nats = distortion(noisy, gans.sample(vae.gan, decoder, latents), log_deviation(vae, params))
    clean, _ = encode(vae, params, gans.to_float(images))
    rebuilt = gans.to_uint8(gans.sample(vae.gan, decoder, clean))
    return nats, divergence(mean, log_variance), rebuilt


def as_network(numbers: Numbers) -> gans.Network:
    """The decoder as the generator that it is: `scores.draw` takes it."""
    return gans.Network(numbers.params["decoder"], numbers.variables)


def bound(vae: Vae, numbers: Numbers, images: np.ndarray, key: jax.Array) -> dict[str, float]:
    """The negative bound of held-out images, and the error of their reconstruction.

    Returns:
      `nats` of an image's grey levels, `divergence` of them, `bits` a pixel, `deviation` of a
      pixel and `error`, root mean squared, both in grey levels.
    """
    nats, apart, squares = [], [], []
    for i, start in enumerate(range(0, len(images), BATCH)):
        batch = images[start : start + BATCH]
        found = look(vae, numbers, batch, jax.random.fold_in(key, i))
        nats.append(np.asarray(found[0], float) + np.asarray(found[1], float))
        apart.append(np.asarray(found[1], float))
        squares.append(np.square(np.asarray(found[2], float) - batch))
    dimensions = math.prod(shape(vae))
    total = in_levels(float(np.concatenate(nats).mean()), dimensions)
    return {
        "bits": total / (dimensions * math.log(2)),
        "nats": total,
        "divergence": float(np.concatenate(apart).mean()),
        "deviation": LEVELS * math.exp(float(log_deviation(vae, numbers.params))),
        "error": math.sqrt(float(np.concatenate(squares).mean())),
    }


def laplacian_variance(images: np.ndarray) -> float:
    """The variance of an image's Laplacian, the mean over images: how much fine structure.

    Edges raise it, and noise does.

    Args:
      images: uint8 [N, H, W, C].
    Source: Pech-Pacheco et al. 2000 (LAPV), without the border.
    """
    x = images.astype(np.float64)
    inside = x[:, 1:-1, 1:-1]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float((around - 4 * inside).var(axis=(1, 2, 3)).mean())


def milliseconds(step: Callable[[], Any]) -> float:
    """What a step takes, the median of TIMED."""
    found = []
    for _ in range(TIMED):
        start = time.perf_counter()
        jax.block_until_ready(step())
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def train_and_score(method: str, seed: int) -> list[dict[str, Any]]:
    """The lines of a run, which an earlier start may have made; its images are beside them."""
    result, pictures = (path(method, seed, suffix) for suffix in (".json", ".npz"))
    if not result.exists() or data.read_arrays(pictures) is None:
        rows, images = score_gan(seed) if method == GAN else score_vae(method, seed)
        result.parent.mkdir(parents=True, exist_ok=True)
        data.write_arrays(pictures, images)
        runs.replace(result, json.dumps(rows))
    return json.loads(result.read_text())


def score_gan(seed: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Trains a GAN, and scores it."""
    config, place = read_config(seed), path(GAN, seed)
    dataset, gan, _ = prepared()
    state = train.train_together([config], [place], place, prepared=prepared())[0]
    key = jax.random.fold_in(state.key, scores.EVAL_KEY)
    images = scores.draw(gan, state.average, key, NUM_SAMPLES.value)
    examples = {"images": jax.device_put(dataset.images)}
    indices = jnp.zeros((1, *gans.batch_shape(gan)), jnp.int32)
    batches = data.take(examples, indices)

    def step() -> Any:
        nonlocal state
        state, _ = train.train_steps(gan, state, batches, None, True)
        return state

    row = {"model": GAN, "seed": seed, "milliseconds": milliseconds(step)}
    return [row | score(images)], {"samples": images[: SHOWN[0]]}


def score_vae(method: str, seed: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Trains a VAE, and scores its samples without noise and, if it is learnt, with it."""
    dataset, gan, _ = prepared()
    vae = make_vae(gan, read_config(seed), STATED if method == WIDE else None)
    init_key, order_key, key, look_key, draw_key = jax.random.split(jax.random.key(seed), 5)
    state, images = init(vae, init_key), jax.device_put(dataset.images)
    indices = data.make_indices(order_key, len(images), (gan.batch_size,))
    print(f"Training {method}, seed {seed}")
    for step in range(NUM_STEPS.value):
        state, nats = update(vae, state, images, indices(step), key)
        if (step + 1) % 500 == 0 or step + 1 == NUM_STEPS.value:
            print(f"  step {step + 1:,}: {float(nats):.1f} nats in [-1, 1]", flush=True)
    # A copy: the timed steps donate the state.
    average: Numbers = jax.tree.map(jnp.copy, state.average)

    first = indices(0)

    def once_more() -> Any:
        nonlocal state
        state, _ = update(vae, state, images, first, key)
        return state

    row = {"seed": seed, "milliseconds": milliseconds(once_more)}
    real = held_out()
    found = bound(vae, average, real, look_key)
    means = scores.draw(gan, as_network(average), draw_key, NUM_SAMPLES.value)
    noise = np.random.default_rng(seed).normal(0, found["deviation"], means.shape)
    noisy = np.clip(np.round(means + noise), 0, 255).astype(np.uint8)
    rows = [
        {"model": name, **row, **score(samples), **found}
        for name, samples in ((method, means), (NOISY, noisy))
        if method == MEANS or name == method
    ]
    shown = slice(0, SHOWN[0])
    rebuilt = look(vae, average, real[:BATCH], look_key)[2]
    pictures = {"samples": means[shown], "noisy": noisy[shown]}
    return rows, pictures | {"rebuilt": np.asarray(rebuilt)[shown]}


def score(images: np.ndarray) -> dict[str, float]:
    """The scores of samples, whoever made them; sharpness relative to held-out images."""
    found = scores.score(prepared().judge, images)
    sharpness = laplacian_variance(images) / laplacian_variance(held_out())
    return {f"eval/{name}": value for name, value in found.items()} | {"sharpness": sharpness}


def floor() -> dict[str, float]:
    """What held-out images score."""
    found = scores.floor(prepared().judge)
    return {f"eval/{name}": value for name, value in found.items()} | {"sharpness": 1.0}


def table(rows: Sequence[dict[str, Any]], real: dict[str, float]) -> str:
    """Means and standard deviations over seeds; below, what the VAE alone has."""

    def cell(own: Sequence[dict[str, Any]], name: str) -> str:
        return tables.spread([row[name] for row in own])

    models = {name: [row for row in rows if row["model"] == name] for name in MODELS}
    lines = [
        [name, str(len(own)), *(cell(own, x) for x in (*SCORES, "milliseconds"))]
        for name, own in models.items()
    ]
    lines.append([REAL, "", *(f"{real[name]:.3g}" for name in SCORES), ""])
    heads = ["", "seeds", *SCORES.values(), "ms a step"]
    own = [[name, *(cell(models[name], x) for x in OF_VAE)] for name in (MEANS, WIDE)]
    return f"{tables.markdown(heads, lines)}\n{tables.markdown(['', *OF_VAE.values()], own)}"


def draw(rows: Sequence[dict[str, Any]], real: dict[str, float]) -> Figure:
    """Samples side by side, what the VAE makes of held-out images, and the scores."""
    drawing = Figure(figsize=(9, 8.6), layout="constrained")
    above, middle, below = drawing.subfigures(3, 1, squeeze=False, height_ratios=(3.1, 2.2, 2.4))[
        :, 0
    ]
    gan, vae, wide = (
        data.read_arrays(path(method, 0, ".npz")) or {} for method in (GAN, MEANS, WIDE)
    )
    grids = {
        REAL: held_out()[: SHOWN[0]],
        GAN: gan["samples"],
        MEANS: vae["samples"],
        NOISY: vae["noisy"],
        WIDE: wide["samples"],
    }
    for axes, (name, images) in zip(above.subplots(1, len(grids)), grids.items()):
        picture = np.asarray(pictures.draw_grid(images[: SHOWN[0]], SHOWN[1]))
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(name, fontsize="medium")
        axes.set_axis_off()
    columns = 15
    pairs = np.concatenate(
        [grids[REAL][:columns], vae["rebuilt"][:columns], wide["rebuilt"][:columns]]
    )
    axes = middle.subplots(1, 1)
    axes.imshow(np.asarray(pictures.draw_grid(pairs, columns)), cmap="gray", vmin=0, vmax=255)
    axes.set_title(
        "held-out images, and what VAE and VAE, 64 levels, make of them", fontsize="medium"
    )
    axes.set_axis_off()
    for axes, (name, title) in zip(below.subplots(1, len(SCORES)), SCORES.items()):
        for place, model in enumerate(MODELS):
            values = [row[name] for row in rows if row["model"] == model]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            settings = {"color": COLOURS[model], "error_kw": {"ecolor": "#555555"}}
            axes.bar(place, statistics.fmean(values), yerr=deviation, label=model, **settings)
        axes.axhline(real[name], color="#555555", linestyle=":", label=REAL)
        axes.set_title(title, fontsize="medium")
        axes.set_xticks([])
    handles, labels = axes.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=5)
    return drawing


if __name__ == "__main__":
    cli.run(main)
