"""studies/vae.py: its bound where it has a closed form, and the study in a short form."""

import csv
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_script, run_study
from scipy import stats

import data
import gan as gans

pytestmark = pytest.mark.slow

study = import_script("vae")


@pytest.fixture
def vae(make_config):
    changes = {"generator.name": "dcgan", "generator.width": 4, "batch_size": 16}
    changes |= {"discriminator.width": 16, "latent_dim": 3}
    config = make_config("configs/digits.py:mescheder", changes)
    return study.make_vae(gans.make_gan(config, data.Spec((8, 8, 1), 10)), config)


def test_divergence_is_what_sampling_estimates():
    mean, log_variance = jnp.array([[0.5, -1.0, 2.0]]), jnp.array([[-1.0, 0.3, -2.0]])
    latents = study.reparametrise(
        jnp.repeat(mean, 200_000, 0), jnp.repeat(log_variance, 200_000, 0), jax.random.key(0)
    )
    scale = np.exp(np.asarray(log_variance) / 2)
    ratio = stats.norm.logpdf(latents, mean, scale) - stats.norm.logpdf(latents)
    estimates = ratio.sum(axis=1)
    error = estimates.std() / np.sqrt(len(estimates))
    assert study.divergence(mean, log_variance)[0] == pytest.approx(estimates.mean(), abs=5 * error)
    assert study.divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0] == 0


def test_the_bound_is_the_likelihood_where_everything_is_linear():
    """x = W z + b + s e: p(x) is a Gaussian, and the true posterior makes the bound tight."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [2.0, 0.5]  # orthogonal columns
    offset, deviation = rng.normal(size=5), 0.7
    images = rng.normal(size=(4, 5))
    precision = 1 + (directions**2).sum(axis=0) / deviation**2
    mean = (images - offset) @ directions / deviation**2 / precision
    log_variance = np.broadcast_to(-np.log(precision), mean.shape)
    num = 20_000

    def many(x):
        return jnp.repeat(jnp.asarray(x, jnp.float32), num, axis=0)

    def bound(log_variance):
        latents = study.reparametrise(many(mean), many(log_variance), jax.random.key(0))
        decoded = latents @ directions.T + offset
        nats = study.distortion(many(images), decoded, jnp.log(deviation))
        nats += study.divergence(many(mean), many(log_variance))
        return np.asarray(nats).reshape(len(images), num).mean(axis=1)

    covariance = directions @ directions.T + deviation**2 * np.eye(5)
    exact = -stats.multivariate_normal(offset, covariance).logpdf(images)
    np.testing.assert_allclose(bound(log_variance), exact, atol=0.03)
    assert (bound(log_variance + 1) > exact + 0.1).all()  # another posterior: a looser bound


def test_bits_are_of_probabilities_of_grey_levels():
    """A pixel's bounds over all 256 levels sum to exp(-1 / (24 s^2)), s in levels: less than 1.

    The noise is of variance 1/12, so that the mean of the square is that much larger.
    """
    levels = jnp.arange(256, dtype=jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 2_000)
    noisy = jax.vmap(partial(study.dequantise, levels[:, None]))(keys)
    for deviation in (0.1, 0.01):
        nats = study.distortion(noisy.reshape(-1, 1), jnp.zeros(1), jnp.log(deviation))
        nats = np.asarray(nats).reshape(2_000, 256).mean(axis=0)
        total = sum(np.exp(-study.in_levels(float(x), 1)) for x in nats)
        expected = np.exp(-1 / (24 * (study.LEVELS * deviation) ** 2))
        assert total == pytest.approx(expected, abs=1e-3 if deviation == 0.1 else 0.01)
    np.testing.assert_allclose(noisy.mean(0)[:, 0], gans.to_float(levels), atol=2e-4)


def test_the_bounds_parts_are_of_one_posterior(vae):
    """Its latents are drawn from that of the noisy image, and so the divergence is."""
    images = jnp.asarray(data.digits(None).images[:16])
    numbers = study.init(vae, jax.random.key(0)).numbers
    _, found, _ = study.look(vae, numbers, images, jax.random.key(1))
    noisy = study.dequantise(images, jax.random.split(jax.random.key(1))[0])
    np.testing.assert_allclose(
        found, study.divergence(*study.encode(vae, numbers.params, noisy)), rtol=1e-5
    )


def test_a_step_lowers_the_bound(vae):
    images = jnp.asarray(data.digits(None).images[:16])
    state = study.init(vae, jax.random.key(0))
    nats = []
    for _ in range(40):
        state, found = study.update(vae, state, images, jnp.arange(16), jax.random.key(1))
        nats.append(float(found))
    assert np.mean(nats[-5:]) < np.mean(nats[:5]) - 3
    assert state.step == 40


def test_a_stated_deviation_stays(vae):
    stated, images = vae._replace(deviation=0.5), jnp.zeros((16, 8, 8, 1), jnp.uint8)
    state = study.init(stated, jax.random.key(0))
    nats, _ = study.loss(stated, *state.numbers, images, jax.random.key(1))
    state.numbers.params["log_deviation"] = jnp.log(0.5)
    expected, _ = study.loss(vae, *state.numbers, images, jax.random.key(1))
    assert nats == pytest.approx(float(expected), rel=1e-6)


def test_the_decoder_is_the_generator(vae):
    """The same module with the same numbers of its own, so that every score takes it as one."""
    numbers = study.init(vae, jax.random.key(0)).numbers
    generator, _ = gans.init_networks(vae.gan, jax.random.key(1))
    assert jax.tree.map(jnp.shape, numbers.params["decoder"]) == jax.tree.map(
        jnp.shape, generator.params
    )
    latents = jnp.ones((2, 3))
    assert gans.sample(vae.gan, study.as_network(numbers), latents).shape == (2, 8, 8, 1)


def test_the_average_moves_as_the_gans_does(vae):
    images, state = jnp.zeros((16, 8, 8, 1), jnp.uint8), study.init(vae, jax.random.key(0))
    before = jax.tree.map(np.asarray, state.average)
    state, _ = study.update(vae, state, images, jnp.arange(16), jax.random.key(1))
    keep = 0.5 ** (16 / vae.half_life)
    for old, new, average in zip(*map(jax.tree.leaves, (before, state.numbers, state.average))):
        np.testing.assert_allclose(average, keep * old + (1 - keep) * new, rtol=1e-5, atol=1e-6)


def test_sharpness_by_hand():
    """A single bright pixel of value 1 inside 5x5: its Laplacian is -4, of its neighbours 1."""
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 2] = 1
    laplacian = np.array([0, 1, 0, 1, -4, 1, 0, 1, 0])
    assert study.laplacian_variance(image) == pytest.approx(laplacian.var())
    assert study.laplacian_variance(np.full((1, 5, 5, 1), 9, np.uint8)) == 0


def short(tmp_path, *words):
    fixed = ["--dataset=digits", "--num_steps=2", "--num_samples=100", "--seeds=1"]
    fixed += [f"--out={tmp_path}", f"--runs={tmp_path / 'runs'}"]
    return run_study("vae", *fixed, *words)


def test_the_study_in_short(tmp_path):
    result = short(tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "vae.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == list(study.MODELS)
    assert rows[0]["bits"] == ""
    assert rows[1]["bits"] == rows[2]["bits"]
    assert float(rows[3]["deviation"]) == pytest.approx(63.75)
    table = (tmp_path / "vae.md").read_text().splitlines()
    assert table[2].startswith("| GAN | 1 | ")
    assert (tmp_path / "vae.png").read_bytes()[:4] == b"\x89PNG"

    again = short(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Training" not in again.stdout
    assert (tmp_path / "vae.md").read_text().splitlines() == table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out=nowhere"], "there is no such folder"),
        (["--seeds=0"], "seeds"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path):
    result = short(tmp_path, *words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())
