"""The arithmetic of composition against plain dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.adapters import compose_math
from adaptive_lora.adapters.compose_math import Factors, merge, reduce_dense, reduce_product, squared_norm

Sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24))


def _factors(n_out: int, n_in: int, rank: int, seed: int = 0, weight: float = 1.0) -> Factors:
    random = np.random.default_rng(seed)
    a = random.standard_normal((rank, n_in), np.float32)
    b = random.standard_normal((n_out, rank), np.float32)
    return Factors(a, b, weight, seed)


def _tail(matrix: np.ndarray, rank: int) -> float:
    """The least squared error that any matrix of that rank has (Eckart and Young)."""
    return float((np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[rank:] ** 2).sum())


@given(Sizes, st.integers(1, 24), st.integers(0, 99))
def test_a_product_is_reduced_to_the_best_one(sizes: tuple[int, int, int], rank: int, seed: int) -> None:
    n_out, n_in, summed = sizes
    rank = min(rank, n_out, n_in, summed)
    part = _factors(n_out, n_in, summed, seed)
    matrix = part.b.astype(np.float64) @ part.a
    reduced = reduce_product(part.a.astype(np.float64), part.b.astype(np.float64), rank)
    assert reduced.a.shape == (rank, n_in)
    assert reduced.b.shape == (n_out, rank)
    whole = float((matrix**2).sum())
    assert reduced.squared_norm == pytest.approx(whole, rel=1e-9)
    assert reduced.squared_error == pytest.approx(_tail(matrix, rank), rel=1e-6, abs=1e-9 * whole)
    measured = float(((matrix - reduced.b.astype(np.float64) @ reduced.a) ** 2).sum())
    assert measured == pytest.approx(reduced.squared_error, rel=1e-4, abs=1e-11 * whole)
    assert squared_norm(part.a, part.b) == pytest.approx(whole, rel=1e-4)


def test_the_signs_do_not_depend_on_the_library() -> None:
    part = _factors(20, 30, 12)
    reduced = reduce_product(part.a.astype(np.float64), part.b.astype(np.float64), 6)
    mirrored = reduce_product(-part.a.astype(np.float64), -part.b.astype(np.float64), 6)
    np.testing.assert_allclose(reduced.a, mirrored.a, atol=1e-5)
    np.testing.assert_allclose(reduced.b, mirrored.b, atol=1e-5)


@pytest.mark.parametrize("shape", [(600, 700), (700, 600), (60, 700)])
def test_a_dense_matrix_is_reduced_nearly_as_well_as_can_be(shape: tuple[int, int]) -> None:
    """Noise is the worst case: its singular values hardly fall."""
    matrix = np.random.default_rng(1).standard_normal(shape, np.float32)
    reduced = reduce_dense(matrix, 16)
    best = _tail(matrix, 16)
    assert best <= reduced.squared_error * (1 + 1e-6)
    assert reduced.squared_error <= best * 1.01
    measured = float(((matrix.astype(np.float64) - reduced.b.astype(np.float64) @ reduced.a) ** 2).sum())
    assert reduced.squared_error == pytest.approx(measured, rel=1e-5)


def test_a_matrix_of_low_rank_is_kept() -> None:
    part = _factors(150, 200, 8)
    reduced = reduce_dense(part.b @ part.a, 8)
    assert reduced.squared_error < 1e-10 * reduced.squared_norm


def test_ties_keeps_the_largest_and_averages_those_that_agree() -> None:
    """By hand: one row, so that b @ a is a scaled row."""

    def row(*values: float, weight: float = 1.0) -> Factors:
        return Factors(np.array([values], np.float32), np.ones((1, 1), np.float32), weight, 0)

    merged = merge([row(4, -3, 1, 2), row(2, 5, -6, 1, weight=0.5)], "ties", density=0.5)
    # Kept: 4, -3 and 5, -6. Signs of the sums: +, +, -, +; the first part's -3 is outvoted.
    np.testing.assert_allclose(merged, [[4, 2.5, -3, 0]])
    np.testing.assert_allclose(merge([row(4, -3, 1, 2)], "ties", density=1.0), [[4, -3, 1, 2]])


def test_dare_is_right_on_average_and_drops_what_it_says() -> None:
    parts = [_factors(300, 400, 4, seed=1, weight=0.7), _factors(300, 400, 4, seed=2, weight=0.3)]
    wanted = sum(p.weight * (p.b @ p.a) for p in parts)
    merged = merge(parts, "dare_linear", density=0.5)
    assert float((merged == 0).mean()) == pytest.approx(0.25, abs=0.01)
    # The mean over 120,000 entries of merged * wanted is that of wanted squared.
    assert float((merged * wanted).mean()) == pytest.approx(float((wanted**2).mean()), rel=0.05)
    np.testing.assert_allclose(merge(parts, "dare_linear", density=1.0), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(merged, merge(parts, "dare_linear", density=0.5))


def test_what_a_part_loses_does_not_depend_on_the_others() -> None:
    one, other = _factors(50, 60, 4, seed=1), _factors(50, 60, 4, seed=2)
    alone = merge([one], "dare_linear", density=0.3) + merge([other], "dare_linear", density=0.3)
    np.testing.assert_allclose(merge([one, other], "dare_linear", density=0.3), alone, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [_factors(64, 50, 4, seed=1), _factors(64, 50, 4, seed=2)]
    whole = {method: merge(parts, method, 0.4) for method in ("ties", "dare_linear", "dare_ties")}
    monkeypatch.setattr(compose_math, "BLOCK_BYTES", 4 * 50 * 7)
    for method, matrix in whole.items():
        np.testing.assert_allclose(merge(parts, method, 0.4), matrix, atol=1e-5)
