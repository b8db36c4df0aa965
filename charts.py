"""Charts as SVG, for pages that need no network: curves with bands, scatter plots.

A picture's numbers are in pixels of its `viewBox`; a page draws it as wide as there is room.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Told apart by the colour-blind, too: those of Okabe and Ito 2008, then Tol's muted ones.
COLOURS: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#999999",
)
COLOURS += ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255")
WIDTH, HEIGHT = 640, 260  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 16, 44  # of its margins, where words and numbers stand
MOST_POINTS = 300  # of a curve; what is denser is thinned
LARGEST = 1e300  # what is beyond is drawn as infinity is: not at all
DECADES = 100  # positive numbers so far apart have a logarithmic scale, where a chart may


class Point(NamedTuple):
    """Of a curve: a number of images, a value (None: not finite) and its standard deviation."""

    images: float
    value: float | None
    deviation: float = 0.0


class Frame(NamedTuple):
    """The numbers at a chart's borders, and what it measures; `low` is less than `high`."""

    left: float
    right: float
    low: float
    high: float
    log_x: bool = False
    log_y: bool = False
    width: int = WIDTH
    height: int = HEIGHT

    def x(self, value: float) -> float:
        """Of a number along the width, its pixel."""
        share = _share(value, self.left, self.right, self.log_x)
        return LEFT + (self.width - LEFT - RIGHT) * share

    def y(self, value: float) -> float:
        """Of a number along the height, its pixel."""
        share = _share(value, self.low, self.high, self.log_y)
        return self.height - BOTTOM - (self.height - BOTTOM - TOP) * share

    def place(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"


def points(rows: Iterable[Mapping[str, Any]], metric: str) -> list[Point]:
    """The curve of a metric: of rows of metrics.jsonl, or of `population.mean_and_spread`."""
    curve = []
    for row in rows:
        if metric in row:
            value, deviation = (_finite(row.get(f"{metric}{end}")) for end in ("", "_std"))
            curve.append(Point(row["images"], value, deviation or 0.0))
    return curve


def thin(curve: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many: of each stretch its least, its greatest and a gap; the first and the last.

    So no peak is lost.
    """
    if len(curve) <= most:
        return list(curve)
    size = math.ceil(3 * len(curve) / (most - 2))
    kept = {0, len(curve) - 1}
    for start in range(0, len(curve), size):
        stretch = range(start, min(start + size, len(curve)))
        values = {i: value for i in stretch if (value := curve[i].value) is not None}
        if values:
            kept |= {min(values, key=values.__getitem__), max(values, key=values.__getitem__)}
        kept |= set([i for i in stretch if i not in values][:1])
    return [curve[i] for i in sorted(kept)]


def chart(
    curves: Mapping[str, Sequence[Point]],
    colours: Mapping[str, str],
    name: str,
    levels: Mapping[str, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    dots: bool = False,
    log: bool = False,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """An SVG over images: a line a curve, in a band of a standard deviation.

    Args:
      curves: by name; where a value is not finite the line has a gap.
      colours: by name.
      name: of what is drawn, beside the axis.
      levels: dashed lines, by their words.
      marks: images and words of what has happened there.
      dots: one at each point, not only at the last.
      log: whether the scale is logarithmic where all is positive and DECADES apart.
      size: width and height.
    """
    levels = levels or {}
    known = [p for curve in curves.values() for p in curve if p.value is not None]
    if not known:
        return "<p>No run has it yet.</p>"
    values = [p.value + side * p.deviation for p in known for side in (-1, 1)]  # type: ignore[operator]
    values += levels.values()
    low, high = min(values), max(values)
    log = log and low > 0 and high / low >= DECADES
    end = max(p.images for curve in curves.values() for p in curve)
    frame = Frame(0, end or 1, *_apart(low, high), False, log, *size)
    parts = _axes(frame, "images", f"{name}, logarithmic" if log else name)
    for words, value in levels.items():
        parts.append(_level(frame, words, value))
    shown: set[int] = set()
    for images, words in marks:
        if 0 <= images <= frame.right and round(frame.x(images)) not in shown:
            shown.add(round(frame.x(images)))
            parts.append(_mark(frame, images, words))
    for curve_name, curve in curves.items():
        parts += _curve(frame, curve_name, curve, colours[curve_name], dots)
    return _svg(frame, parts, f"{name} over images")


def scatter(
    points: Sequence[tuple[float, float, str]],
    log: bool,
    colours: Mapping[str, str],
    names: tuple[str, str],
) -> str:
    """An SVG of a metric over a number that was searched: a dot a setting.

    Args:
      points: number, metric, setting.
      log: whether the number's scale is logarithmic.
      colours: by setting; another one's is grey.
      names: of the number and of the metric.
    """
    if not points:
        return "<p>No run has it yet.</p>"
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    left, right = min(xs), max(xs)
    if left == right:
        log = False
    frame = Frame(*_apart(left, right), *_apart(min(ys), max(ys)), log)
    parts = _axes(frame, *names)
    for x, y, name in points:
        parts.append(_dot(frame, x, y, colours.get(name, "#bbb"), name))
    return _svg(frame, parts, f"{names[1]} over {names[0]}")


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Round numbers between two, four or so; of a logarithmic scale powers of ten, if it has two.

    Args:
      low, high: the one less than the other.
    """
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 2, 5)):
            found = [m * 10.0**e for e in exponents for m in factors if low <= m * 10.0**e <= high]
            if len(found) >= 2:
                return found[:: math.ceil(len(found) / 6)]
    raw = (high - low) / 5
    if not (math.isfinite(raw) and raw > 0):
        return [low, high]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10, 20) if m * unit >= raw)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A round number in a few characters: 250k, 1.5M, 0.25."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e12:
            return f"{value / unit:.6g}{suffix}"
    return f"{value:.6g}"


def _finite(value: Any) -> float | None:
    """A number whose differences are finite, too."""
    return value if isinstance(value, int | float) and abs(value) < LARGEST else None


def _apart(low: float, high: float) -> tuple[float, float]:
    """Both, or what is around them where they are one."""
    half = 0 if high > low else max(1.0, abs(low)) / 2
    return low - half, high + half


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = (math.log(x) for x in (value, low, high))
    return (value - low) / (high - low)


def _axes(frame: Frame, name_x: str, name_y: str) -> list[str]:
    """Lines at round heights, the numbers of both axes, and what they are of."""
    parts = []
    base, middle = frame.height - BOTTOM, (TOP + frame.height - BOTTOM) / 2
    for value in ticks(frame.low, frame.high, frame.log_y):
        y = f"{frame.y(value):.1f}"
        line = f'<line x1="{LEFT}" y1="{y}" x2="{frame.width - RIGHT}" y2="{y}" stroke="#ddd"/>'
        number = f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{short(value)}</text>'
        parts += [line, number]
    parts.append(
        f'<line x1="{LEFT}" y1="{base}" x2="{frame.width - RIGHT}" y2="{base}" stroke="#999"/>'
    )
    for value in ticks(frame.left, frame.right, frame.log_x):
        x = f"{frame.x(value):.1f}"
        parts.append(f'<line x1="{x}" y1="{base}" x2="{x}" y2="{base + 4}" stroke="#999"/>')
        parts.append(f'<text x="{x}" y="{base + 17}" text-anchor="middle">{short(value)}</text>')
    parts.append(
        f'<text x="{(LEFT + frame.width - RIGHT) / 2}" y="{frame.height - 8}" '
        f'text-anchor="middle">{html.escape(name_x)}</text>'
    )
    parts.append(
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(name_y)}</text>"
    )
    return parts


def _curve(
    frame: Frame, name: str, curve: Sequence[Point], colour: str, dots: bool
) -> Iterable[str]:
    """A line and its band for every stretch without a gap, and dots."""
    stretches: list[list[Point]] = [[]]
    for point in thin(curve):
        if point.value is None:
            stretches.append([])
        else:
            stretches[-1].append(point)
    stretches = [stretch for stretch in stretches if stretch]
    title = f"<title>{html.escape(name)}</title>"
    for stretch in stretches:
        line, above, below = (
            [_clipped(frame, p.images, (p.value or 0.0) + side * p.deviation) for p in stretch]
            for side in (0, 1, -1)
        )
        if any(p.deviation for p in stretch):
            band = " ".join(above + below[::-1])
            yield f'<polygon points="{band}" fill="{colour}" opacity=".18"/>'
        drawn = f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}"'
        yield f'{drawn} stroke-width="2">{title}</polyline>'
    for stretch in stretches:
        last = stretch is stretches[-1]
        for point in stretch if dots or len(stretch) == 1 else stretch[-1:] if last else ():
            words = f"{name}: {point.value:.4g} at {point.images:,} images"
            yield _dot(frame, point.images, point.value or 0.0, colour, words)


def _clipped(frame: Frame, x: float, y: float) -> str:
    """A place, not below what a logarithm has."""
    return frame.place(x, max(y, frame.low) if frame.log_y else y)


def _level(frame: Frame, words: str, value: float) -> str:
    y = frame.y(value)
    line = f'<line x1="{LEFT}" y1="{y:.1f}" x2="{frame.width - RIGHT}" y2="{y:.1f}"'
    below = 13 if y < TOP + 14 else -4
    return (
        f'{line} stroke="#333" stroke-dasharray="6 4"/><text x="{frame.width - RIGHT}" '
        f'y="{y + below:.1f}" text-anchor="end">{html.escape(words)}</text>'
    )


def _mark(frame: Frame, images: float, words: str) -> str:
    """A dotted line with a triangle on it."""
    x = f"{frame.x(images):.1f}"
    return (
        f'<g class="mark"><title>{html.escape(words)}</title>'
        f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{frame.height - BOTTOM}" stroke="#333" '
        f'stroke-dasharray="1 3"/><path d="M{x} {TOP}l-6 -11h12z" fill="#333"/></g>'
    )


def _dot(frame: Frame, x: float, y: float, colour: str, name: str) -> str:
    title = f"<title>{html.escape(name)}</title>"
    place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
    return f'<circle {place} r="4" fill="{colour}">{title}</circle>'


def _svg(frame: Frame, parts: Sequence[str], label: str) -> str:
    box = f'viewBox="0 0 {frame.width} {frame.height}"'
    return f'<svg {box} role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
