"""What latents mean: paths between them, directions among them, and the latents of given images.

Pure functions of a `Gan` and one of its networks: `state.average`, after `standing_statistics`
where the GAN has them. Latents are N(0, I), so that 1 along a unit direction is one deviation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.decomposition import PCA

import gan as gans

BATCH_SIZE = 100
TINY = 1e-30  # a divisor instead of 0
AFFINE = 0.05  # how far a layer that bfloat16 rounds may be from affine, of its largest number
PRINCIPAL_SAMPLES = 2_000
FEATURE_WEIGHT = 0.1  # of features, where pixels weigh 1

Embed = Callable[[jax.Array], jax.Array]


class Directions(NamedTuple):
    """Unit vectors in latent space, the strongest first.

    Attributes:
      vectors: float32 [K, latent_dim]; the largest number of each is positive.
      values: float [K]: singular values, or standard deviations.
    """

    vectors: np.ndarray
    values: np.ndarray


class Inversion(NamedTuple):
    """The latents found for some images.

    Attributes:
      latents: float32 [N, latent_dim].
      nearest: float32 [N, latent_dim], of the random latents those whose pixels are nearest.
    """

    latents: np.ndarray
    nearest: np.ndarray


def render(
    gan: gans.Gan,
    network: gans.Network,
    latents: np.ndarray | jax.Array,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """The examples of given latents as every picture sees them: uint8 [N, H, W, C], or points.

    Args:
      gan: static.
      network: see above.
      latents: [N, latent_dim].
      labels: int32 [N], where the networks are given labels.
    Raises:
      FloatingPointError: some hold NaN or infinite numbers.
    """
    size, parts = min(BATCH_SIZE, len(latents)), []
    with jax.default_matmul_precision("highest"):
        for start in range(0, len(latents), size):
            chosen = np.arange(start, start + size) % len(latents)  # one shape, so one compilation
            given = None if labels is None else jnp.asarray(labels[chosen], jnp.int32)
            examples, finite = _render(gan, network, jnp.asarray(latents)[chosen], given)
            if not finite:
                raise FloatingPointError("the samples hold NaN or infinite numbers")
            parts.append(np.asarray(examples))
    return np.concatenate(parts)[: len(latents)]


@functools.partial(jax.jit, static_argnums=0)
def _render(
    gan: gans.Gan, network: gans.Network, latents: jax.Array, labels: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    examples = gans.sample(gan, network, latents, labels)
    shown = gans.to_uint8(examples) if examples.ndim == 4 else examples
    return shown, jnp.isfinite(examples).all()


def slerp(start: jax.Array, end: jax.Array, t: jax.Array) -> jax.Array:
    """From `start` (t = 0) to `end` (t = 1) along the great circle, at a constant angular speed.

    The norm goes from one to the other linearly: a straight line would pass too near to 0, where
    Gaussian latents are not. Between opposite latents some great circle is taken, always the same.

    Args:
      start, end: [..., D], not 0.
      t: [...], or a number.
    Source: Shoemake 1985; White 2016, whose angular speed is constant for equal norms alone.
    """
    norms = [jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end)]
    first, last = start / norms[0], end / norms[1]
    # Not the arc cosine of a product: its rounding is a large angle near 0 and pi.
    apart, together = (
        jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (last - first, last + first)
    )
    angle = 2 * jnp.arctan2(apart, together)
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(first), axis=-1), first.shape[-1], dtype=first.dtype)
    across = jnp.where(together < 1e-6, axis, last)
    for _ in range(2):  # what rounding has left of `first` is the larger the smaller the rest
        across -= jnp.sum(across * first, axis=-1, keepdims=True) * first
        across /= jnp.maximum(jnp.linalg.norm(across, axis=-1, keepdims=True), TINY)
    t = jnp.asarray(t)[..., None]
    norm = (1 - t) * norms[0] + t * norms[1]
    return norm * (jnp.cos(t * angle) * first + jnp.sin(t * angle) * across)


def walk(anchors: jax.Array, positions: jax.Array) -> jax.Array:
    """Latents on the closed path through anchors: [T, ...] of anchors [A, ...].

    Args:
      anchors: [A, ..., latent_dim].
      positions: [T] in [0, A]: k is the k-th anchor, and A the first again.
    """
    num = len(anchors)
    before = jnp.floor(positions).astype(int)
    t = (positions - before).reshape(-1, *(1,) * (anchors.ndim - 2))
    return slerp(anchors[before % num], anchors[(before + 1) % num], t)


def first_weight(gan: gans.Gan, network: gans.Network) -> np.ndarray:
    """The matrix that the generator multiplies latents with first: [latent_dim, features].

    Where labels come beside the latents it is the latents' part. It is found in the traced program,
    so that a network of your own has one, too, if a matrix product takes its latents as they are.

    Raises:
      LookupError: nothing is, or not by one of the network's parameters.
    """
    latents = jax.ShapeDtypeStruct((2, gan.latent_dim), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32) if gan.num_classes else None
    program = jax.make_jaxpr(functools.partial(gans.sample, gan))(network, latents, labels).jaxpr
    leaves = jax.tree.leaves(network)
    weights = dict(zip(map(id, program.invars), leaves))
    taken = {id(program.invars[len(leaves)])}  # the latents, converted or with others behind them
    for equation in program.eqns:
        name, inputs = equation.primitive.name, [id(x) for x in equation.invars]
        if name == "dot_general" and not taken.isdisjoint(inputs):
            axes, _ = equation.params["dimension_numbers"]
            if inputs[0] in taken and inputs[1] in weights and axes == ((1,), (0,)):
                return np.asarray(weights[inputs[1]], np.float32)[: gan.latent_dim]
            break
        if name == "convert_element_type" and inputs[0] in weights:
            weights[id(equation.outvars[0])] = weights[inputs[0]]
        behind = name == "concatenate" and equation.params["dimension"] == 1
        if (behind or name == "convert_element_type") and inputs[0] in taken:
            taken.add(id(equation.outvars[0]))
    raise LookupError(
        f"{type(gan.generator).__name__} does not multiply its latents, as they are, with one of "
        "its parameters"
    )


def semantic_directions(weight: np.ndarray) -> Directions:
    """Directions n in which the first matrix changes most: eigenvectors of A A', |n' A| maximal.

    Args:
      weight: A, [latent_dim, features], as `first_weight` finds it. (The paper's A is its
        transpose.)
    Source: Shen and Zhou 2021 (SeFa).
    """
    vectors, values, _ = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    return Directions(_signed(vectors.T), values)


def principal_directions(
    gan: gans.Gan,
    network: gans.Network,
    key: jax.Array,
    num: int,
    label: int = 0,
    samples: int = PRINCIPAL_SAMPLES,
) -> Directions:
    """Latent directions that the principal components of an early layer's activations regress to.

    The layer is the first that is not affine in the latents: of an affine one the components are
    `semantic_directions`. Deviation: the directions have unit length.

    Args:
      gan: static.
      network: see above.
      key: of the latents.
      num: of the directions; latent_dim at most, and the layer's size.
      label: of all samples, where the networks are given labels.
      samples: how many latents.
    Returns:
      Directions, with the components' standard deviations.
    Source: Harkonen et al. 2020 (GANSpace), section 2.2.
    """
    if hasattr(gan.generator, "remat"):  # what is computed anew is traced where nothing can look
        gan = dataclasses.replace(gan, generator=gan.generator.clone(remat=False))
    latents = gans.draw_latents(gan, key, samples)
    labels = jnp.full(samples, label, jnp.int32) if gan.num_classes else None
    layer = _first_not_affine(gan, network, latents[:2], None if labels is None else labels[:4])
    size, parts = min(BATCH_SIZE, samples), []
    for start in range(0, samples, size):
        rows = slice(start, start + size)
        given = None if labels is None else labels[rows]
        found = _layer_outputs(gan, network, latents[rows], given, layer)
        parts.append(np.asarray(found, np.float32).reshape(len(found), -1))
    outputs = np.concatenate(parts)
    analysis = PCA(min(num, gan.latent_dim, *outputs.shape), random_state=0)
    scores = analysis.fit_transform(outputs)  # [samples, num], uncorrelated
    vectors = scores.T @ np.asarray(latents)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), TINY)
    return Directions(_signed(vectors), np.sqrt(analysis.explained_variance_))


def _first_not_affine(
    gan: gans.Gan, network: gans.Network, pair: jax.Array, labels: jax.Array | None
) -> int:
    """The layer f, of those in the order of their calls, with f(x) + f(y) != f(x + y) + f(0)."""
    probes = jnp.stack([pair[0], pair[1], pair[0] + pair[1], jnp.zeros_like(pair[0])])
    outputs = _layer_outputs(gan, network, probes, labels, None)
    for i, values in enumerate(outputs):
        x, y, both, neither = np.asarray(values, np.float32)
        if np.abs(x + y - both - neither).max() > AFFINE * np.abs(values).max():
            return i
    return len(outputs) - 1


@functools.partial(jax.jit, static_argnums=(0, 4))
def _layer_outputs(
    gan: gans.Gan,
    network: gans.Network,
    latents: jax.Array,
    labels: jax.Array | None,
    index: int | None,
) -> Any:
    """What each of the generator's layers makes of latents, in the order of their calls; or one."""
    outputs: list[jax.Array] = []

    def remember(call: Callable, arguments: Any, settings: Any, context: Any) -> Any:
        result = call(*arguments, **settings)
        if context.method_name == "__call__" and getattr(result, "shape", ())[:1] == (
            len(latents),
        ):
            outputs.append(result)
        return result

    with nn.intercept_methods(remember):
        gans.sample(gan, network, latents, labels)
    return outputs if index is None else outputs[index]


def _signed(vectors: np.ndarray) -> np.ndarray:
    """The vectors [K, D] turned so that the largest number of each is positive."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return (vectors * np.sign(largest)).astype(np.float32)


def make_embedding(targets: np.ndarray, look: Callable | None = None) -> Embed:
    """The function to vectors [B, K] whose squared distance is the loss that `invert` descends.

    The mean squared difference of pixels in [-1, 1], and of features a tenth of that relative to
    the targets' mean square.

    Args:
      targets: uint8 [N, H, W, C].
      look: a view's `apply` (features.py), images in [0, 255] to features and logits; None: none.
    """
    scale = 1.0
    if look is not None:
        features, _ = look(jnp.asarray(targets))
        scale = float(np.sqrt(FEATURE_WEIGHT / max(np.mean(np.square(features)), TINY)))

    def embed(images: jax.Array) -> jax.Array:
        """Of float images [B, H, W, C] in [-1, 1]."""
        pixels = images.reshape(images.shape[0], -1)
        parts = [pixels / np.sqrt(pixels.shape[1])]
        if look is not None:
            features, _ = look((images + 1) * 127.5)
            parts.append(features * (scale / np.sqrt(features.shape[1])))
        return jnp.concatenate(parts, axis=1)

    return embed


def invert(
    gan: gans.Gan,
    network: gans.Network,
    embed: Embed,
    targets: np.ndarray,
    labels: np.ndarray | None,
    key: jax.Array,
    steps: int = 200,
    restarts: int = 4,
    candidates: int = 500,
    learning_rate: float = 0.2,
) -> Inversion:
    """The latents whose images come nearest to given ones.

    Adam, its rate falling along a cosine, from the `restarts` best of many random latents; kept is
    the best latent of all that each image has seen.

    Args:
      gan: static.
      network: see above.
      embed: from `make_embedding`.
      targets: uint8 [N, H, W, C].
      labels: int32 [N], where the networks are given labels.
      key: of the random latents, the same for all images.
      steps: of Adam.
      restarts: at the same time.
      candidates: random latents.
      learning_rate: the first.
    Source: Zhu et al. 2016; Creswell and Bharath 2018. The restarts are ours.
    """
    wanted = embed(gans.to_float(jnp.asarray(targets)))
    given = None if labels is None else jnp.asarray(labels, jnp.int32)
    pool = np.asarray(gans.draw_latents(gan, key, candidates))
    starts, nearest = _best_candidates(gan, network, embed, targets, labels, pool, restarts)
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.adam(schedule)

    def descend(network: gans.Network, carried: Any) -> Any:
        latents, opt_state, best, least = carried

        def total(latents: jax.Array) -> tuple[jax.Array, jax.Array]:
            images = gans.sample(gan, network, latents, given)
            # As pictures show them, but for the gradient, which would be 0 where one is clipped.
            images += jax.lax.stop_gradient(jnp.clip(images, -1, 1) - images)
            losses = jnp.sum((embed(images) - wanted) ** 2, axis=1)
            return losses.sum(), losses

        grads, losses = jax.grad(total, has_aux=True)(latents)
        best = jnp.where((losses < least)[:, None], latents, best)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(latents, updates), opt_state, best, jnp.minimum(losses, least)

    # Not a loop of the compiled program: on a CPU convolutions' gradients are slow there.
    step = jax.jit(jax.vmap(descend, in_axes=(None, 0)))
    latents = jnp.asarray(starts)
    carried = (
        latents,
        jax.vmap(optimizer.init)(latents),
        latents,
        jnp.full(latents.shape[:2], jnp.inf),
    )
    for _ in range(steps + 1):  # the last one sees where the last update went
        carried = step(network, carried)
    _, _, best, least = carried
    chosen = np.argmin(least, axis=0)
    return Inversion(np.asarray(best)[chosen, np.arange(len(targets))], nearest)


def pixel_error(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square of the differences of pixels, of a range of 1.

    Args:
      images, others: uint8 [N, H, W, C].
    Returns:
      float [N].
    """
    squares = np.square((images.astype(np.float32) - others) / 255)
    return np.sqrt(squares.mean(axis=(1, 2, 3)))


def _best_candidates(
    gan: gans.Gan,
    network: gans.Network,
    embed: Embed,
    targets: np.ndarray,
    labels: np.ndarray | None,
    pool: np.ndarray,
    num: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Of latents [C, D] the best of each image: [num, N, D] by the loss, and [N, D] by pixels."""
    embed = jax.jit(embed)
    wanted = np.asarray(embed(gans.to_float(jnp.asarray(targets))))
    starts = np.empty((num, *targets.shape[:1], pool.shape[1]), np.float32)
    nearest = np.empty(starts.shape[1:], np.float32)
    for label in [None] if labels is None else np.unique(labels):
        members = np.arange(len(targets)) if label is None else np.flatnonzero(labels == label)
        given = None if label is None else np.full(len(pool), label)
        images = render(gan, network, pool, given)
        found = np.asarray(embed(gans.to_float(jnp.asarray(images))))
        for i in members:
            differences = (found - wanted[i]) ** 2
            order = np.argsort(differences.sum(axis=1), kind="stable")
            starts[:, i] = pool[np.resize(order[:num], num)]
            pixels = differences[:, : targets[0].size].sum(axis=1)
            nearest[i] = pool[pixels.argmin()]
    return starts, nearest
