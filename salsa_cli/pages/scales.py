"""Scales of charts: ranges, round ticks and tick labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isclose, isfinite, log10
from typing import Literal

Kind = Literal["linear", "log"]
Unit = Literal["number", "count", "percent"]

TICKS = 5
"""Ticks that an axis has at most, give or take one: more crowd a narrow screen."""

_STEPS = (1.0, 2.0, 5.0, 10.0)

_WITHIN = 1e-6
"""Share of a step by which a value may lie outside of the axis, which nobody sees. Rounding errors
such as a KL of -7e-9 do not add a step."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """What one axis of a chart shows.

    label: what is measured, with its unit.
    kind: `log` leaves out values that are not positive.
    unit: how ticks are written. A `count` has whole ticks; `percent` writes 0.5 as 50%.
    low, high: ends that the axis reaches at least; by default those of the data.
    """

    label: str = ""
    kind: Kind = "linear"
    unit: Unit = "number"
    low: float | None = None
    high: float | None = None

    def shows(self, value: float | None) -> bool:
        """Whether the value has a place on this axis."""
        return value is not None and isfinite(value) and (self.kind == "linear" or value > 0)


@dataclass(frozen=True)
class AxisScale:
    """A function from `low`..`high` to the pixels `start`..`end`, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        place, first, last = (_straight(v, self.kind) for v in (value, self.low, self.high))
        return self.start + (place - first) / (last - first) * (self.end - self.start)


def fit(axis: Axis, values: Iterable[float | None]) -> tuple[float, float]:
    """The ends of an axis: those of the values that it shows and of `axis.low` and `axis.high`.

    Where they coincide they are moved apart, so that the result always has a width; shares stay
    within 0 to 1 and counts at 0 or above. Without any value: 0 to 1, or 1 to 10 on a logarithmic
    axis.
    """
    shown = [v for v in (*values, axis.low, axis.high) if v is not None and axis.shows(v)]
    if not shown:
        return (1.0, 10.0) if axis.kind == "log" else (0.0, 1.0)
    low, high = min(shown), max(shown)
    if isclose(low, high, rel_tol=1e-9):
        if axis.kind == "log":
            return low / 2, high * 2
        apart = abs(low) / 10 or 1.0
        return _sensible(axis.unit, low, low - apart, high + apart)
    return low, high


def _sensible(unit: Unit, value: float, low: float, high: float) -> tuple[float, float]:
    """Ends around a single value that no share and no count can be beyond."""
    if unit == "number" or value < 0:
        return low, high
    if unit == "percent" and value <= 1:
        high = min(high, 1.0)
    return max(low, 0.0), high


def widen(axis: Axis, ends: tuple[float, float]) -> tuple[float, float]:
    """The ends moved outwards to round numbers; an end that the axis fixes stays where it is."""
    low, high = ends
    if axis.kind == "log":
        exponents = floor(log10(low) + 1e-9), ceil(log10(high) - 1e-9)
        ends = 10.0 ** exponents[0], 10.0 ** exponents[1]
    else:
        size = step(low, high, axis.unit)
        first, last = outer(low, high, size)
        ends = first * size, last * size
    return (low if low == axis.low else ends[0], high if high == axis.high else ends[1])


def outer(low: float, high: float, size: float) -> tuple[int, int]:
    """The multiples of a step that enclose `low` and `high`, as whole numbers of steps."""
    first, last = floor(low / size + _WITHIN), ceil(high / size - _WITHIN)
    return first, max(last, first + 1)


def ticks(axis: Axis, ends: tuple[float, float]) -> tuple[float, ...]:
    """Round numbers from the first end to the second.

    Linear axes step by 1, 2 or 5 times a power of ten. Logarithmic ones take powers of ten, and
    their doubles and fivefolds where the axis spans less than two decades; all multiples where it
    spans less than a factor of five.
    """
    low, high = ends
    if axis.kind == "log":
        return _log_ticks(low, high)
    size = step(low, high, axis.unit)
    first, last = ceil(low / size - 1e-9), floor(high / size + 1e-9)
    return tuple(i * size for i in range(first, last + 1))


def step(low: float, high: float, unit: Unit, intervals: int = TICKS) -> float:
    """The smallest round step that divides `low`..`high` into at most so many intervals."""
    raw = (high - low) / intervals
    size = 10.0 ** floor(log10(raw))
    found = next(size * s for s in _STEPS if size * s >= raw * (1 - 1e-9))
    return max(1.0, found) if unit == "count" else found


def labels(axis: Axis, places: tuple[float, ...]) -> tuple[str, ...]:
    """The ticks as text, all with the same number of decimals on a linear axis."""
    if axis.kind == "log":
        return tuple(_plain_or_power(value) for value in places)
    factor = 100.0 if axis.unit == "percent" else 1.0
    apart = (places[1] - places[0]) * factor if len(places) > 1 else abs(places[0] * factor) or 1.0
    if axis.unit != "percent" and (max(map(abs, places)) >= 10**7 or apart < 1e-4 * 0.999):
        last = floor(log10(apart) + 1e-9)
        return tuple(
            _power(value, digits=max(0, floor(log10(abs(value)) + 1e-9) - last) if value else 0)
            for value in places
        )
    decimals = max(0, -floor(log10(apart) + 1e-9))
    end = "%" if axis.unit == "percent" else ""
    return tuple(_minus(f"{value * factor:,.{decimals}f}") + end for value in places)


def number(value: float, unit: Unit = "number") -> str:
    """One value with three telling digits, for a table or a tooltip."""
    if not isfinite(value):
        return "none"
    if unit == "percent":
        return _minus(f"{value * 100:.1f}%")
    if value and not 1e-3 <= abs(value) < 1e7:
        return _power(value, digits=2)
    if unit == "count" or abs(value) >= 1000:
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:.{max(0, 2 - floor(log10(abs(value)))) if value else 0}f}")


def _straight(value: float, kind: Kind) -> float:
    return log10(value) if kind == "log" else value


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    first, last = floor(log10(low) + 1e-9), ceil(log10(high) - 1e-9)
    if log10(high / low) >= 2:
        every = ceil((last - first + 1) / (TICKS + 1))
        found = [10.0**e for e in range(first, last + 1) if e % every == 0]
    else:
        multiples = _STEPS[:3] if high / low >= 5 else range(1, 10)
        found = [m * 10.0**e for e in range(first, last + 1) for m in multiples]
    return tuple(v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9))


def _plain_or_power(value: float) -> str:
    if 1e-3 * 0.999 <= value < 1e5:
        return f"{value:,.0f}" if value >= 1 else f"{value:.{-floor(log10(value) + 1e-9)}f}"
    return _power(value)


def _power(value: float, digits: int = 1) -> str:
    """A mantissa times a power of ten; at most `digits` digits after its point."""
    if not value:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return (
        _minus(mantissa) + "\N{MULTIPLICATION SIGN}10" + str(int(exponent)).translate(_SUPERSCRIPT)
    )


def _minus(text: str) -> str:
    """A true minus sign; none before a zero."""
    if text.startswith("-") and not any(digit in text for digit in "123456789"):
        return text[1:]
    return text.replace("-", "\N{MINUS SIGN}")
