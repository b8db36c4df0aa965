"""Charts: places by hand, thinned curves, round numbers on axes."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest

import charts
from charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point


def lines_of(drawn):
    """The places of each line, in pixels."""
    places = re.findall(r'<polyline points="([^"]*)"', drawn)
    return [[tuple(map(float, place.split(","))) for place in line.split()] for line in places]


def test_a_chart_draws_mean_and_deviation():
    """By hand: 0 to 100 images, means 1 and 3, deviations 1: from 0 to 4 over the height."""
    rows = [{"images": 0, "x": 1.0, "x_std": 1.0}, {"images": 100, "x": 3.0, "x_std": 1.0}]
    curves = {"<a>": charts.points(rows, "x"), "b": []}
    drawn = charts.chart(curves, {"<a>": "#123456", "b": "#000000"}, "<x>")
    bottom = HEIGHT - BOTTOM
    heights = [bottom - (bottom - TOP) * y / 4 for y in (0, 1, 2, 3, 4)]
    left, right = LEFT, WIDTH - RIGHT
    line = f"{left:.1f},{heights[1]:.1f} {right:.1f},{heights[3]:.1f}"
    assert f'<polyline points="{line}" fill="none" stroke="#123456"' in drawn
    band = [(left, heights[2]), (right, heights[4]), (right, heights[2]), (left, heights[0])]
    assert f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in band)}"' in drawn
    assert "<title>&lt;a&gt;</title>" in drawn
    assert "&lt;x&gt;</text>" in drawn
    assert "<x>" not in drawn
    assert charts.chart({"a": []}, {"a": "#000000"}, "x") == "<p>No run has it yet.</p>"


def test_a_logarithmic_scale_is_even_in_the_logarithm():
    curve = [Point(i, 10.0**-i) for i in range(3)]
    ((first, second, third),) = lines_of(charts.chart({"a": curve}, {"a": "#000"}, "x", log=True))
    assert second[1] - first[1] == pytest.approx(third[1] - second[1], abs=0.1)
    for value in (0.0, -1.0, 0.011):  # not positive, or not far enough apart
        curve[2] = Point(2, value)
        drawn = charts.chart({"a": curve}, {"a": "#000"}, "x", log=True)
        assert "logarithmic" not in drawn
        ((first, second, _),) = lines_of(drawn)
        share = (second[1] - first[1]) / (HEIGHT - BOTTOM - TOP)
        assert share == pytest.approx(0.9 / (1 - value), abs=0.01)


def test_what_is_not_finite_is_a_gap():
    rows = [{"images": i, "x": x} for i, x in enumerate([1.0, 2.0, None, float("nan"), 3.0, "4"])]
    curve = charts.points(rows, "x")
    assert [point.value for point in curve] == [1.0, 2.0, None, None, 3.0, None]
    drawn = charts.chart({"a": curve}, {"a": "#000"}, "x")
    assert [len(line) for line in lines_of(drawn)] == [2, 1]
    assert drawn.count("<circle ") == 1  # the last, and nothing else of that line
    assert "nan" not in drawn.lower()


def test_levels_and_marks_are_where_they_belong():
    curve = [Point(0, 0.0), Point(100, 4.0)]
    marks = [(50, "<lost>"), (50.01, "the same pixel"), (200, "outside")]
    drawn = charts.chart({"a": curve}, {"a": "#000"}, "x", {"floor": 1.0}, marks)
    y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) / 4
    assert f'y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#333" stroke-dasharray' in drawn
    assert drawn.count('class="mark"') == 1
    assert f'<title>&lt;lost&gt;</title><line x1="{(LEFT + WIDTH - RIGHT) / 2:.1f}"' in drawn


def test_thinning_loses_no_peak():
    draws = random.Random(0)
    curve = [Point(i, draws.uniform(0, 1)) for i in range(10_007)]
    peaks = {1234: 9.0, 5678: -9.0, 10_000: 8.0}
    for i, value in peaks.items():
        curve[i] = Point(i, value)
    curve[7000] = Point(7000, None)
    thin = charts.thin(curve)
    assert len(thin) <= charts.MOST_POINTS
    assert thin == sorted(thin, key=lambda point: point.images)
    assert set(thin) <= set(curve)
    assert {curve[i] for i in (0, 7000, 10_006, *peaks)} <= set(thin)
    assert charts.thin(curve[:300]) == curve[:300]
    gone = [Point(i, None) for i in range(1000)]
    assert 0 < len(charts.thin(gone)) <= charts.MOST_POINTS


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_round_and_inside(log):
    draws = random.Random(0)
    for _ in range(2000):
        low = draws.choice([-1, 1]) * 10 ** draws.uniform(-8, 8)
        if log:
            low = abs(low)
        high = low + abs(low) * 10 ** draws.uniform(-3, 12)
        found = charts.ticks(low, high, log)
        assert 2 <= len(found) <= 7, (low, high, found)
        assert found == sorted(set(found))
        slack = 1e-9 * max(abs(low), abs(high))
        assert low - slack <= found[0]
        assert found[-1] <= high + slack
        if high > (100 if log else 2) * abs(low):
            steps = found if log else [b - a for a, b in itertools.pairwise(found)]
            assert {f"{x:.6e}"[:8] for x in steps} <= {f"{x}.000000" for x in (1, 2, 5)}


@pytest.mark.parametrize(
    "values", [(1e-300, 2e-300), (-1.7e308, 1.0, 1.7e308), (1e20, 1e20), (0.0, 0.0), (1, 10**400)]
)
def test_extreme_values_are_drawn(values):
    curve = charts.points([{"images": i, "x": x} for i, x in enumerate(values)], "x")
    drawn = charts.chart({"a": curve}, {"a": "#000"}, "x", log=True)
    assert not re.search("nan|inf", drawn.lower().replace("images", ""))


def test_numbers_are_short():
    words = [charts.short(x) for x in (0, 0.25, 1000, 250_000, -1.5e6, 2e9, 1e-7, 3e20)]
    assert words == ["0", "0.25", "1k", "250k", "-1.5M", "2G", "1e-07", "3e+20"]
    assert math.isfinite(float(charts.short(0.1 + 0.2)))
    assert charts.short(0.1 + 0.2) == "0.3"
