"""studies/convergence.py: the Dirac-GAN's eigenvalues against the closed forms."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_script, run_study

pytestmark = pytest.mark.slow

convergence = import_script("convergence")


def assert_same_numbers(found, expected, tolerance=1e-5):
    """In whatever order."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for number in expected:
        nearest = min(found, key=lambda x: abs(x - number))
        assert abs(nearest - number) < tolerance, (found, expected)
        found.remove(nearest)


# Of lemma 2.3 and 4.1's proof: f'(0) is 1/2 for f(t) = -log(1 + exp(-t)), 1 for f(t) = t.
@pytest.mark.parametrize(
    ("loss", "slope"), [("minimax", 0.5), ("non_saturating", 0.5), ("wasserstein", 1.0)]
)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 5.0])
def test_the_field_has_the_eigenvalues_of_the_paper(loss, slope, gamma):
    gan, state = convergence.dirac_gan(loss, ("r1",) if gamma else (), weight=gamma)
    found = np.linalg.eigvals(
        convergence.jacobian(gan, state, convergence.dirac_batch(gan), jnp.zeros(2))
    )
    root = np.sqrt(complex(gamma**2 / 4 - slope**2))
    assert_same_numbers(found, [-gamma / 2 + root, -gamma / 2 - root])


@pytest.mark.parametrize("loss", convergence.PRODUCTS)
def test_every_loss_and_penalty_is_as_the_table_says(loss):
    for penalties in (("r2",), ("r1", "r2"), ("zero_centred_gp",), ("lecam",)):
        gan, state = convergence.dirac_gan(loss, penalties, weight=0.7)
        gamma = 0.7 * sum(convergence.DAMPINGS[name] for name in penalties)
        batch = convergence.dirac_batch(gan)
        found = np.linalg.eigvals(convergence.jacobian(gan, state, batch, jnp.zeros(2)))
        assert_same_numbers(found, convergence.field_eigenvalues(loss, gamma))


@pytest.mark.parametrize("rule", convergence.RULES)
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_a_step_has_the_eigenvalues_of_its_rule(rule, gamma):
    gan, state = convergence.dirac_gan("minimax", ("r1",) if gamma else (), rule, 0.2, gamma)
    found = np.linalg.eigvals(convergence.step_jacobian(gan, state, convergence.dirac_batch(gan)))
    assert_same_numbers(found, convergence.step_eigenvalues("minimax", gamma, rule, 0.2))
    if rule == "alternating" and not gamma:  # lemma 2.5, in its own words
        half = 1 - (0.2 * 0.5) ** 2 / 2
        assert_same_numbers(
            found, [half + 1j * np.sqrt(1 - half**2), half - 1j * np.sqrt(1 - half**2)]
        )


def test_the_field_is_the_games():
    """v(theta, psi) of the minimax game, by hand: (sigma(psi theta) psi, -sigma(psi theta) theta)."""
    gan, state = convergence.dirac_gan("minimax")
    theta, psi = 0.7, -1.3
    found = convergence.field(gan, state, convergence.dirac_batch(gan), jnp.array([theta, psi]))
    sigma = float(jax.nn.sigmoid(psi * theta))
    np.testing.assert_allclose(found, [sigma * psi, -sigma * theta], rtol=1e-6)


def test_a_loss_without_closed_forms_is_measured(monkeypatch):
    """As of a fork."""
    monkeypatch.setattr(convergence, "PRODUCTS", {})
    monkeypatch.setattr(convergence, "PENALTIES", ((),))
    monkeypatch.setattr(convergence, "DIRAC_STEPS", 2)
    rows = convergence.dirac_rows(["wasserstein"])
    assert rows[0]["largest_imaginary"] == pytest.approx(1.0)
    assert "`wasserstein` | none | 0.0000 + 1.0000i | not known |" in convergence.dirac_table(rows)


def test_it_writes_figures_and_tables(tmp_path):
    words = [f"--out={tmp_path}", "--seeds=1", "--num_steps=20", "--loss=wasserstein"]
    result = run_study("convergence", *words)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "convergence.csv").open() as file:
        rows = list(csv.DictReader(file))
    ruled = len(convergence.RULED) * len(convergence.RULES)
    assert len(rows) == ruled + len(convergence.PENALTIES) - len(convergence.RULED)
    for row in rows:
        if row["step_radius"]:
            assert float(row["step_radius"]) == pytest.approx(
                float(row["step_radius_closed_form"]), abs=2e-3
            )
    with (tmp_path / "convergence_spectrum.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"0", "2", "6", "20"}
    for name in ("convergence", "convergence_rules", "convergence_spectrum"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (
        "`wasserstein` | none | 0.0000 + 1.0000i | 0.0000 + 1.0000i"
        in (tmp_path / "convergence.md").read_text()
    )


def test_a_mistake_is_one_line(tmp_path):
    result = run_study("convergence", f"--out={tmp_path / 'nowhere'}")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "there is no such folder" in result.stderr
