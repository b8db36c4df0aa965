"""Does the game converge? The Dirac-GAN in closed form, then the same Jacobian in a real training.

    python studies/convergence.py [--out=docs/studies] [--seeds=3] [--num_steps=10000]
        [--loss=hinge]

The Dirac-GAN (Mescheder et al. 2018, section 2) is the smallest GAN: all real examples are 0, all
fake ones theta, and D(x) = psi x. Its equilibrium is (0, 0). Near it everything is said by the
Jacobian of the game's vector field, the negative of `gan.gradients`, and by that of one step,
`gan.update`: both are differentiated here by `jax.jacfwd`, and held against the closed forms.

Three figures: `convergence.png` has field and path for every loss and penalty (`bcr` aside, which
shifts images), `convergence_rules.png` the distance to the equilibrium by update rule, and
`convergence_spectrum.png` the Jacobian's eigenvalues while an MLP pair learns the ring.
"""

from __future__ import annotations

import cmath
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import batches  # noqa: E402
import charts  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import devices  # noqa: E402
import gan as gans  # noqa: E402
import scores  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402
from configs import default  # noqa: E402
from losses import LOSSES  # noqa: E402

OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figures and tables.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Of the real training.", lower_bound=1)
CHOSEN = flags.DEFINE_multi_enum(
    "loss", list(LOSSES), list(LOSSES), "Of the Dirac-GAN, several times; default: all."
)
NUM_STEPS = flags.DEFINE_integer("num_steps", 10_000, "Of the real training.", lower_bound=1)

RATE, WEIGHT = 0.1, 1.0  # of Dirac's players; of a penalty
STARTS = ((1.0, 1.0), (-1.0, 0.5), (0.5, -1.0), (0.2, 0.2), (-0.8, -0.8))
DIRAC_STEPS = 1_000  # of each path
PENALTIES: tuple[tuple[str, ...], ...] = (
    (), ("r1",), ("r2",), ("r1", "r2"), ("zero_centred_gp",), ("gp",), ("dragan",), ("lecam",)
)  # fmt: skip
RULED: tuple[tuple[str, ...], ...] = ((), ("r1",))  # in which update rules are compared
# Of the losses as losses.py has them: how G's descent grows with psi times how D's falls with
# theta, at the equilibrium. For f of Mescheder et al. it is f'(0)^2. Least squares gives D no slope
# there: its target for a fake example is what it says of it. A loss that is not here is measured
# without closed forms beside it.
PRODUCTS = {
    "minimax": 0.25,
    "non_saturating": 0.25,
    "least_squares": 0.0,
    "hinge": 1.0,
    "wasserstein": 1.0,
    "relativistic_average": 1.0,
    "relativistic_paired": 0.25,
}
# How much of gamma, the coefficient of half the squared gradient, a penalty of weight 1 is there.
# LeCam's is flat; those that draw the norm to 1 have a kink.
DAMPINGS = {"r1": 1.0, "r2": 1.0, "zero_centred_gp": 2.0, "lecam": 0.0}
RULES = {  # optimiser and update rule
    "simultaneous": ("sgd", "simultaneous"),
    "alternating": ("sgd", "alternating"),
    "optimistic": ("optimistic_sgd", "simultaneous"),
    "extragradient": ("sgd", "extragradient"),
}
GAMES: dict[str, dict[str, Any]] = {  # of the real training: what differs from mescheder's recipe
    "non_saturating": {"penalties.r1": 0.0},
    "non_saturating + R1": {},
    "relativistic_paired + R1 + R2": {"loss": "relativistic_paired", "penalties.r2": None},
}
SHARES = (0.0, 0.02, 0.1, 0.3, 1.0)  # of the steps after which the Jacobian is taken
SMALL = {"generator.width": 16, "discriminator.width": 16}
NUM_EXAMPLES = 1_024  # of an expected gradient


class DiracGenerator(nn.Module):
    """All fake examples are theta."""

    shape: tuple[int, ...] = (1,)

    @nn.compact
    def __call__(self, latents: jax.Array, labels: Any, train: bool) -> jax.Array:
        theta = self.param("theta", nn.initializers.ones, self.shape)
        return jnp.broadcast_to(theta, (len(latents), *self.shape))


class DiracDiscriminator(nn.Module):
    """The logit of x is psi x."""

    @nn.compact
    def __call__(self, examples: jax.Array, labels: Any, train: bool) -> jax.Array:
        return examples @ self.param("psi", nn.initializers.ones, (1,))


def dirac_gan(
    loss: str,
    penalties: tuple[str, ...] = (),
    rule: str = "simultaneous",
    rate: float = RATE,
    weight: float = WEIGHT,
) -> tuple[gans.Gan, gans.GanState]:
    """The Dirac-GAN with a loss, penalties of one weight, and a rule of RULES; its first state."""
    config = default.get_config()
    optimizer, config.update_rule = RULES[rule]
    config.loss, config.batch_size = loss, 2
    for name in penalties:
        config.penalties[name] = weight
    for player in ("generator", "discriminator"):
        config.optimizer[player].name = optimizer
        config.optimizer[player].learning_rate = rate
    gan = gans.make_gan(config, data.Spec((1,), None))
    gan = dataclasses.replace(gan, generator=DiracGenerator(), discriminator=DiracDiscriminator())
    return gan, gans.init(gan, config, jax.random.key(0))


def dirac_batch(gan: gans.Gan) -> gans.Batch:
    """Real examples: all 0."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), gans.abstract_batch(gan))


def place(state: gans.GanState, position: jax.Array) -> gans.GanState:
    """The state with G's and D's parameters from one vector: theta and psi, for Dirac's."""
    networks = state.generator, state.discriminator
    _, unravel = ravel_pytree(tuple(network.params for network in networks))
    params = unravel(position)
    generator, discriminator = (x.replace(params=p) for x, p in zip(networks, params))
    return state.replace(generator=generator, discriminator=discriminator)


def position_of(state: gans.GanState) -> jax.Array:
    """G's and D's parameters as one vector."""
    return ravel_pytree((state.generator.params, state.discriminator.params))[0]


@functools.partial(jax.jit, static_argnums=0)
def field(gan: gans.Gan, state: gans.GanState, batch: gans.Batch, position: jax.Array) -> jax.Array:
    """The game's vector field where both players' parameters are `position`."""
    return -ravel_pytree(gans.gradients(gan, place(state, position), batch))[0]


@functools.partial(jax.jit, static_argnums=0)
def jacobian(
    gan: gans.Gan, state: gans.GanState, batch: gans.Batch, position: jax.Array
) -> jax.Array:
    """The derivative of `field`."""
    return jax.jacfwd(lambda x: field(gan, state, batch, x))(position)


def step_jacobian(gan: gans.Gan, state: gans.GanState, batch: gans.Batch) -> jax.Array:
    """The derivative of one `gan.update` by all that it changes, at the equilibrium (0, 0).

    Beside the parameters these are the numbers of the optimisers.
    """
    state, _ = gans.update(gan, place(state, jnp.zeros(2)), batch)  # a first step may be another
    players = state.generator, state.discriminator
    moving = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(players)]

    def floats(players: Any) -> list[jax.Array]:
        return [leaf for leaf, is_float in zip(jax.tree.leaves(players), moving) if is_float]

    vector, unravel = ravel_pytree(floats(players))

    def step(vector: jax.Array) -> jax.Array:
        found = iter(unravel(vector))
        leaves, structure = jax.tree.flatten(players)
        leaves = [next(found) if is_float else x for x, is_float in zip(leaves, moving)]
        generator, discriminator = jax.tree.unflatten(structure, leaves)
        before = state.replace(generator=generator, discriminator=discriminator)
        after, _ = gans.update(gan, before, batch)
        return ravel_pytree(floats((after.generator, after.discriminator)))[0]

    return jax.jacfwd(step)(vector)


def field_eigenvalues(loss: str, gamma: float) -> list[complex]:
    """Those of the Dirac-GAN's Jacobian at the equilibrium: -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2).

    Source: Mescheder et al. 2018, lemma 2.3 (gamma = 0), and theorem 4.1's proof for the Dirac-GAN.
    """
    root = cmath.sqrt(gamma**2 / 4 - PRODUCTS[loss])
    return [-gamma / 2 + root, -gamma / 2 - root]


def step_eigenvalues(loss: str, gamma: float, rule: str, rate: float) -> list[complex]:
    """Those of one step's Jacobian at the equilibrium.

    Simultaneous and, without a penalty, alternating steps are Mescheder et al. 2018's lemmas 2.4
    and 2.5; the others follow from the linear game in the same way.
    """
    values = field_eigenvalues(loss, gamma)
    if rule == "simultaneous":
        return [1 + rate * x for x in values]
    if rule == "extragradient":
        return [1 + rate * x + (rate * x) ** 2 for x in values]
    if rule == "optimistic":
        roots = (np.roots([1, -(1 + 2 * rate * x), rate * x]) for x in values)
        return [complex(root) for pair in roots for root in pair]
    half_trace = 1 - (rate**2 * PRODUCTS[loss] + rate * gamma) / 2
    root = cmath.sqrt(half_trace**2 - (1 - rate * gamma))
    return [half_trace + root, half_trace - root]


@functools.partial(jax.jit, static_argnums=0)
def paths(gan: gans.Gan, state: gans.GanState, batch: gans.Batch) -> jax.Array:
    """Positions [len(STARTS), DIRAC_STEPS + 1, 2] from each of STARTS on."""

    def step(state: gans.GanState, _: Any) -> tuple[gans.GanState, jax.Array]:
        state, _ = gans.update(gan, state, batch)
        return state, position_of(state)

    def path(start: jax.Array) -> jax.Array:
        _, positions = jax.lax.scan(step, place(state, start), length=DIRAC_STEPS)
        return jnp.concatenate([start[None], positions])

    return jax.vmap(path)(jnp.array(STARTS))


def dirac_rows(losses: Sequence[str]) -> list[dict[str, Any]]:
    """A row a loss, penalty and rule: eigenvalues beside closed forms, and where paths end.

    Rules other than alternating are of the games in RULED alone.
    """
    rows = []
    for loss in losses:
        for penalties in PENALTIES:
            gamma = sum(DAMPINGS.get(name, np.nan) for name in penalties) * WEIGHT
            gan, state = dirac_gan(loss, penalties)
            found = np.linalg.eigvals(jacobian(gan, state, dirac_batch(gan), jnp.zeros(2)))
            for rule in RULES if penalties in RULED else ("alternating",):
                gan, state = dirac_gan(loss, penalties, rule)
                batch = dirac_batch(gan)
                ends = np.asarray(paths(gan, state, batch)[:, -1])
                distances = np.linalg.norm(ends, axis=-1)
                row = {
                    "loss": loss,
                    "penalty": "+".join(penalties) or "none",
                    "rule": rule,
                    "distance_mean": float(distances.mean()),
                    "distance_std": float(distances.std(ddof=1)),
                }
                if np.isfinite(gamma):
                    steps = np.linalg.eigvals(step_jacobian(gan, state, batch))
                    row |= {
                        "largest_real": float(found.real.max()),
                        "largest_imaginary": float(found.imag.max()),
                        "step_radius": float(abs(steps).max()),
                    }
                if np.isfinite(gamma) and loss in PRODUCTS:
                    expected = field_eigenvalues(loss, gamma)
                    row |= {
                        "largest_real_closed_form": max(x.real for x in expected),
                        "largest_imaginary_closed_form": max(x.imag for x in expected),
                        "step_radius_closed_form": max(
                            map(abs, step_eigenvalues(loss, gamma, rule, RATE))
                        ),
                    }
                rows.append(row)
        print(f"Dirac-GAN: {loss}", flush=True)
    return rows


def draw_fields(file: Path, losses: Sequence[str]) -> None:
    """Field and one path for every loss, a row, and penalty, a column."""
    figure = Figure((13, 12 * len(losses) / len(LOSSES)), layout="tight")
    axes = figure.subplots(len(losses), len(PENALTIES), sharex=True, sharey=True, squeeze=False)
    line = np.linspace(-1.5, 1.5, 21)
    theta, psi = np.meshgrid(line, line)
    grid = jnp.stack([theta.ravel(), psi.ravel()], axis=1)
    for loss, row in zip(losses, axes):
        for penalties, axis in zip(PENALTIES, row):
            gan, state = dirac_gan(loss, penalties, "alternating")
            batch = dirac_batch(gan)
            arrows = np.asarray(jax.vmap(lambda x: field(gan, state, batch, x))(grid))  # noqa: B023
            u, v = arrows.T.reshape(2, *theta.shape)
            axis.streamplot(
                line, line, u, v, color="#bbbbbb", linewidth=0.5, density=0.6, arrowsize=0.5
            )
            positions = np.asarray(paths(gan, state, batch)[0, :501])
            axis.plot(*positions.T, color=charts.COLOURS[0], linewidth=1)
            axis.plot(*positions[-1], "o", color=charts.COLOURS[1], markersize=4)
            axis.plot(0, 0, "+", color="black", markersize=6)
            axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        row[0].set_ylabel(f"{loss}\npsi", fontsize=8)
    for penalties, axis in zip(PENALTIES, axes[0]):
        axis.set_title(" + ".join(penalties) or "no penalty", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("theta")
    figure.savefig(file, dpi=100)


def draw_rules(file: Path) -> None:
    """The distance to the equilibrium by rule, without and with R1."""
    figure = Figure((10, 3.6), layout="tight")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, penalties in zip(axes, ((), ("r1",))):
        for rule, colour in zip(RULES, charts.COLOURS):
            gan, state = dirac_gan("wasserstein", penalties, rule)
            batch = dirac_batch(gan)
            positions = paths(gan, state, batch)[0]
            distances = np.linalg.norm(np.asarray(positions), axis=1)
            axis.semilogy(distances, label=rule, color=colour)
        axis.set(title=f"wasserstein, {'R1' if penalties else 'no penalty'}", xlabel="step")
        axis.set_ylim(1e-6, 1e3)
    axes[0].set_ylabel("distance to the equilibrium")
    axes[0].legend()
    figure.savefig(file, dpi=100)


def spectrum(game: str, seed: int, num_steps: int) -> list[dict[str, Any]]:
    """Trains a small MLP pair on the ring, and takes the Jacobian on the way: a row a moment.

    Its eigenvalues are under `eigenvalues`.
    """
    config = cli.load_config("configs/ring.py:mescheder")
    changes = {k: v for k, v in (SMALL | GAMES[game]).items() if v is not None}
    config.update_from_flattened_dict(changes | {"seed": seed, "num_steps": num_steps})
    if "penalties.r2" in GAMES[game]:
        config.penalties.r2 = config.penalties.r1
    moments = sorted({round(share * num_steps) for share in SHARES})
    config.update(dict.fromkeys(("log_every", "sample_every", "eval_every", "checkpoint_every"), 0))
    dataset, gan, judge = starts.prepare(config)
    state = gans.init(gan, config, jax.random.key(seed))
    config.steps_per_call = starts.steps_per_call(gan, state)
    order_key = jax.random.fold_in(state.key, starts.ORDER_KEY)
    indices = data.make_indices(order_key, len(dataset.images), gans.batch_shape(gan))
    read = batches.gathering({"images": dataset.images}, [indices], devices.make_mesh(1))
    large = dataclasses.replace(gan, batch_size=NUM_EXAMPLES, accumulate=1)
    real = jnp.asarray(dataset.images[: 2 * NUM_EXAMPLES])
    batch = {"images": real.reshape(2, 1, NUM_EXAMPLES, *real.shape[1:])}
    rows, step = [], 0
    for moment in moments:
        while step < moment:
            config.num_steps = moment  # a call ends there
            after, _, taken = train.next_steps(config, gan, state, read, step)
            state, step = cast(gans.GanState, after), step + taken
        found = np.linalg.eigvals(np.asarray(jacobian(large, state, batch, position_of(state))))
        arrows = field(large, state, batch, position_of(state))
        key = jax.random.fold_in(state.key, scores.EVAL_KEY)
        score = scores.evaluate(judge, gan, state.average, key)
        turning = found[np.abs(found.imag) > np.abs(found.real)]
        rows.append(
            {
                "game": game,
                "seed": seed,
                "step": step,
                "field_norm": float(jnp.linalg.norm(arrows)),
                "largest_real": float(found.real.max()),
                "smallest_real": float(found.real.min()),
                "largest_imaginary": float(found.imag.max()),
                "turning_share": len(turning) / len(found),
                "modes": score["eval/modes"],
                "high_quality": score["eval/high_quality"],
                "eigenvalues": found,
            }
        )
        print({k: v for k, v in rows[-1].items() if k != "eigenvalues"}, flush=True)
    return rows


def draw_spectrum(file: Path, rows: list[dict[str, Any]]) -> None:
    """Eigenvalues in the complex plane: a row a game, a column a moment, of the first seed."""
    steps = sorted({row["step"] for row in rows})
    figure = Figure((13, 7.5), layout="tight")
    axes = figure.subplots(len(GAMES), len(steps), sharex=True, sharey=True, squeeze=False)
    chosen = {(row["game"], row["step"]): row for row in rows if row["seed"] == 0}
    for game, line in zip(GAMES, axes):
        for step, axis in zip(steps, line):
            row = chosen[game, step]
            values = row["eigenvalues"]
            unstable = values.real > 0
            for part, colour in ((~unstable, charts.COLOURS[0]), (unstable, charts.COLOURS[1])):
                axis.plot(values.real[part], values.imag[part], ".", color=colour, markersize=3)
            axis.axvline(0, color="#bbbbbb", linewidth=0.5)
            axis.set_xscale("symlog", linthresh=1e-3)
            axis.set_yscale("symlog", linthresh=1e-3)
            axis.set_xticks((-10, -0.1, 0, 0.1, 10))
            axis.set_title(f"step {step:,}, {row['modes']:.0f} modes", fontsize=9)
            axis.tick_params(labelsize=6)
        line[0].set_ylabel(f"{game}\nimaginary", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("real", fontsize=8)
    figure.savefig(file, dpi=100)


def dirac_table(rows: list[dict[str, Any]]) -> str:
    """Eigenvalues of the field beside closed forms, and each rule's radius and last distance."""
    heads = ["loss", "penalty", "eigenvalues", "closed form"]
    heads += [f"{rule}: radius, distance" for rule in RULES]
    lines = []
    for loss, penalty in dict.fromkeys((row["loss"], row["penalty"]) for row in rows):
        own = {row["rule"]: row for row in rows if (row["loss"], row["penalty"]) == (loss, penalty)}
        first = own["alternating"]
        cells = [f"`{loss}`", penalty, _complex(first, ""), _complex(first, "_closed_form")]
        for rule in RULES:
            row = own.get(rule, {})
            figures = [f"{row[k]:.4g}" for k in ("step_radius", "distance_mean") if k in row]
            cells.append(", ".join(figures))
        lines.append(cells)
    return tables.markdown(heads, lines)


def _complex(row: dict[str, Any], end: str) -> str:
    if "largest_real" not in row:
        return "not differentiable"
    if f"largest_real{end}" not in row:
        return "not known"
    real, imaginary = (
        round(row[f"largest_{part}{end}"], 4) + 0.0 for part in ("real", "imaginary")
    )
    return f"{real:.4f} + {imaginary:.4f}i"


def spectrum_table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation over the seeds, a line a game and moment."""
    names = ["field_norm", "largest_real", "smallest_real", "largest_imaginary", "turning_share"]
    names += ["modes", "high_quality"]
    lines = []
    for game, step in dict.fromkeys((row["game"], row["step"]) for row in rows):
        own = [row for row in rows if (row["game"], row["step"]) == (game, step)]
        cells = [tables.spread([row[name] for row in own]) for name in names]
        lines.append([game, f"{step:,}", *cells])
    return tables.markdown(["game", "step", *(name.replace("_", " ") for name in names)], lines)


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    print("The Dirac-GAN, by loss and penalty", flush=True)
    rows = dirac_rows(CHOSEN.value)
    tables.write_csv(out / "convergence.csv", rows)
    draw_fields(out / "convergence.png", CHOSEN.value)
    draw_rules(out / "convergence_rules.png")
    found = [
        row
        for game in GAMES
        for seed in range(SEEDS.value)
        for row in spectrum(game, seed, NUM_STEPS.value)
    ]
    draw_spectrum(out / "convergence_spectrum.png", found)
    for row in found:
        del row["eigenvalues"]
    tables.write_csv(out / "convergence_spectrum.csv", found)
    text = f"{dirac_table(rows)}\n{spectrum_table(found)}"
    (out / "convergence.md").write_text(text)


if __name__ == "__main__":
    cli.run(main)
