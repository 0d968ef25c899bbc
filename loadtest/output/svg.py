"""Line and bar plots as inline SVG. The page's CSS has the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
MAX_POINTS = 300  # of a line; more look the same
GREY, RED = 6, 5  # numbers of the page's --c0 ... --c6
SLACK = 1e-9

Point = tuple[float, float | None]  # y None: a gap in the line


@dataclass(frozen=True)
class Line:
    """Points, joined in this order.

    `step` holds each value until the next. `dots` marks the points, and `labels` names them. If
    there are too many points, each stretch shows its highest one, or its mean if `mean` is set.
    """

    name: str
    points: Sequence[Point]
    colour: int
    dots: bool = False
    step: bool = False
    mean: bool = False
    labels: tuple[str, ...] = ()  # one for each point, or none


@dataclass(frozen=True)
class Mark:
    """A dashed line: vertical at an x, or horizontal at a y if `across`."""

    at: float
    name: str
    colour: int
    across: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps the values of an axis to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """The pixel of a value; one outside the axis is moved to its end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis."""
        return (
            log_ticks(self.low, self.high) if self.log else even_ticks(self.low, self.high, count)
        )


def even_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten.

    >>> even_ticks(0, 10)
    [0, 2, 4, 6, 8, 10]
    """
    rough = (high - low) / max(count, 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * (1 - SLACK))
    first = math.ceil(low / step - SLACK)
    last = math.floor(high / step + SLACK)
    ticks = [round(number * step, 12) for number in range(first, last + 1)]
    return [int(tick) if tick == int(tick) else tick for tick in ticks]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or powers of ten alone over a wide range.

    >>> log_ticks(1, 10)
    [1.0, 2.0, 5.0, 10.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 10**2.2 else (1,)
    ticks = [each * 10.0**power for power in powers for each in steps]
    return [tick for tick in ticks if low * (1 - SLACK) <= tick <= high * (1 + SLACK)]


def short(value: float) -> str:
    """A number for an axis: `1.5`, `12k`, `0.02`.

    >>> short(1500), short(20000), short(0.05), short(2_000_000)
    ('1,500', '20k', '0.05', '2M')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def line_plot(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    least: float = 0.0,
) -> str:
    """A `<figure>`, or "" if no line has a value.

    `log` makes the y axis logarithmic if the values differ much. The axis reaches at least `least`.
    """
    lines = [_thinned(line) for line in lines]
    xs = [x for line in lines for x, y in line.points if y is not None]
    ys = [y for line in lines for _, y in line.points if y is not None]
    if not ys:
        return ""
    # A limit far above the lines would flatten them: the scale ignores it.
    near = [mark.at for mark in marks if mark.across and mark.at <= 3 * max(ys)]
    x = Scale(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
    y = _y_scale([*ys, *near, *([least] if least else [])], log)
    shown = [mark for mark in marks if not mark.across or mark.at in near]
    body = [_frame(x, y, x_title, y_title)]
    body += [_line(line, x, y) for line in lines]
    body += [_mark(mark, x, y) for mark in shown]
    names = [(line.name, f"line s{line.colour}") for line in lines]
    return _figure("".join(body), [*names, *_named(shown)], f"{y_title} over {x_title}")


def bar_plot(
    bins: Sequence[tuple[float, float, int]], x_title: str, y_title: str, marks: Sequence[Mark] = ()
) -> str:
    """Bars (from, to, count) over a logarithmic x axis; "" if all counts are 0."""
    if not sum(count for _, _, count in bins):
        return ""
    x = Scale(bins[0][0], bins[-1][1], LEFT, WIDTH - RIGHT, log=True)
    # At least 5, so that the ticks are whole numbers.
    highest = max(5, *(count for _, _, count in bins)) * 1.05
    y = Scale(0, highest, HEIGHT - BOTTOM, TOP)
    bars = []
    for low, high, count in bins:
        left, right, top = x.pixel(low), x.pixel(high), y.pixel(count)
        if count:
            bars.append(
                f'<rect class="bar" x="{left:.1f}" y="{min(top, y.start - 1):.1f}" '
                f'width="{max(right - left - 0.6, 0.6):.1f}" '
                f'height="{max(y.start - top, 1):.1f}"><title>{short(low)}-{short(high)}: '
                f"{count:,}</title></rect>"
            )
    body = [_frame(x, y, x_title, y_title), *bars, *(_mark(mark, x, y) for mark in marks)]
    return _figure("".join(body), _named(marks), x_title)


def _thinned(line: Line) -> Line:
    """Keep at most `MAX_POINTS` points: the highest of each stretch, to keep latency spikes."""
    size = math.ceil(len(line.points) / MAX_POINTS)
    if size <= 1:
        return line
    points: list[Point] = []
    for at in range(0, len(line.points), size):
        stretch = line.points[at : at + size]
        there = [y for _, y in stretch if y is not None]
        value = (sum(there) / len(there) if line.mean else max(there)) if there else None
        points.append((stretch[0][0], value))
    return replace(line, points=points)


def _y_scale(values: Sequence[float], log: bool) -> Scale:
    top = max(values)
    positive = [value for value in values if value > 0]
    if log and positive and top / min(positive) > 20:
        return Scale(min(positive) / 1.2, top * 1.2, HEIGHT - BOTTOM, TOP, log=True)
    low = min(0.0, *values) if len(values) > 1 else min(0.0, top)
    return Scale(low, top + (top - low) * 0.06 or 1.0, HEIGHT - BOTTOM, TOP)


def _frame(x: Scale, y: Scale, x_title: str, y_title: str) -> str:
    parts = []
    for tick in y.ticks():
        at = y.pixel(tick)
        parts.append(f'<path class="grid" d="M{x.start} {at:.1f}H{x.end}"/>')
        parts.append(f'<text class="end" x="{x.start - 7}" y="{at + 4:.1f}">{short(tick)}</text>')
    for tick in x.ticks(7):
        at = x.pixel(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {y.start}v5"/>')
        parts.append(f'<text class="mid" x="{at:.1f}" y="{y.start + 18}">{short(tick)}</text>')
    parts.append(f'<path class="axis" d="M{x.start} {y.start}H{x.end}"/>')
    middle = (y.start + y.end) / 2
    parts.append(
        f'<text class="mid name" x="{(x.start + x.end) / 2}" y="{HEIGHT - 7}">{escape(x_title)}'
        f'</text><text class="mid name" transform="translate(14 {middle})rotate(-90)">'
        f"{escape(y_title)}</text>"
    )
    return "".join(parts)


def _line(line: Line, x: Scale, y: Scale) -> str:
    path, pen_down, last = [], False, 0.0
    dots = []
    alone = _alone(line.points)
    for number, (at, value) in enumerate(line.points):
        if value is None:
            pen_down = False
            continue
        px, py = x.pixel(at), y.pixel(value)
        if pen_down and line.step:
            path.append(f"V{last:.1f}H{px:.1f}V{py:.1f}")
        else:
            path.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down, last = True, py
        if line.dots or number in alone:
            dots.append(
                f'<circle class="d{line.colour}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"><title>'
                f"{short(at)}: {short(value)}</title></circle>"
            )
        if line.labels:
            dots.append(
                f'<text class="mid name" x="{px:.1f}" y="{py - 8:.1f}">'
                f"{escape(line.labels[number])}</text>"
            )
    return f'<path class="line s{line.colour}" d="{"".join(path)}"/>{"".join(dots)}'


def _alone(points: Sequence[Point]) -> set[int]:
    """The numbers of points without a neighbour, which a path does not show."""
    there = [value is not None for _, value in points]
    padded = [False, *there, False]
    return {n for n in range(len(there)) if there[n] and not padded[n] and not padded[n + 2]}


def _mark(mark: Mark, x: Scale, y: Scale) -> str:
    if mark.across:
        at = y.pixel(mark.at)
        above = at - 5 if at > TOP + 14 else at + 14
        return (
            f'<path class="mark s{mark.colour}" d="M{x.start} {at:.1f}H{x.end}"/>'
            f'<text class="end halo" x="{x.end - 4}" y="{above:.1f}">'
            f"{escape(mark.name)}</text>"
        )
    return f'<path class="mark s{mark.colour}" d="M{x.pixel(mark.at):.1f} {y.start}V{y.end}"/>'


def _named(marks: Sequence[Mark]) -> list[tuple[str, str]]:
    """(name, class) for the legend, each once. Horizontal marks have labels of their own."""
    return list(dict.fromkeys((m.name, f"mark s{m.colour}") for m in marks if not m.across))


def _figure(body: str, names: Sequence[tuple[str, str]], label: str) -> str:
    legend = "".join(
        f'<span><svg viewBox="0 0 28 8" aria-hidden="true"><path class="{kind}" d="M1 4H27"/></svg>'
        f"{escape(name)}</span>"
        for name, kind in names
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{body}</svg><figcaption>{legend}</figcaption></figure>"
    )
