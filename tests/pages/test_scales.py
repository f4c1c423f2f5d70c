"""Ranges, ticks and places, on numbers worked by hand."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.pages import scales
from salsa_cli.pages.scales import Axis, AxisScale


def test_a_linear_scale_by_hand() -> None:
    scale = AxisScale(low=2.0, high=6.0, start=100.0, end=300.0)
    assert [scale(v) for v in (2, 3, 5, 6)] == [100.0, 150.0, 250.0, 300.0]


def test_a_scale_may_run_upwards_on_the_screen() -> None:
    scale = AxisScale(low=0.0, high=10.0, start=250.0, end=50.0)
    assert [scale(v) for v in (0, 2.5, 10)] == [250.0, 200.0, 50.0]


def test_a_logarithmic_scale_by_hand() -> None:
    scale = AxisScale(low=0.01, high=100.0, start=0.0, end=400.0, kind="log")
    assert [scale(v) for v in (0.01, 1, 10, 100)] == pytest.approx([0.0, 200.0, 300.0, 400.0])


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([3.0, 1.0, 2.0], (1.0, 3.0)),
        ([None, nan, inf, 4.0, -1.0], (-1.0, 4.0)),
        ([5.0, 5.0], (4.5, 5.5)),
        ([0.0], (-1.0, 1.0)),
        ([], (0.0, 1.0)),
    ],
)
def test_the_ends_of_an_axis(values: list[float | None], ends: tuple[float, float]) -> None:
    assert scales.fit(Axis(), values) == ends


def test_the_ends_of_a_logarithmic_axis() -> None:
    axis = Axis(kind="log")
    assert scales.fit(axis, [0.0, -3.0, 0.2, 50.0]) == (0.2, 50.0)
    assert scales.fit(axis, [8.0]) == (4.0, 16.0)
    assert scales.fit(axis, [0.0]) == (1.0, 10.0)
    assert scales.widen(axis, (0.2, 50.0)) == pytest.approx((0.1, 100.0))
    assert scales.widen(axis, (0.1, 100.0)) == pytest.approx((0.1, 100.0))


def test_an_axis_reaches_the_ends_it_was_given() -> None:
    axis = Axis(low=0.0, high=1.0)
    assert scales.fit(axis, [0.4]) == (0.0, 1.0)
    assert scales.fit(axis, [-0.3, 0.4]) == (-0.3, 1.0)


@pytest.mark.parametrize(
    ("ends", "widened"),
    [
        ((0.13, 1.52), (0.0, 2.0)),  # 1.39 / 5 = 0.278: steps of 0.5
        ((-3.0, 17.0), (-5.0, 20.0)),  # 20 / 5 = 4: steps of 5
        ((0.0, 1.0), (0.0, 1.0)),
        ((101.0, 104.0), (101.0, 104.0)),
        ((-7e-9, 8.0), (0.0, 8.0)),  # a rounding error adds no step
        ((-0.01, 8.0), (-2.0, 8.0)),
    ],
)
def test_ends_move_out_to_round_numbers(
    ends: tuple[float, float], widened: tuple[float, float]
) -> None:
    assert scales.widen(Axis(), ends) == pytest.approx(widened)


def test_an_end_that_the_axis_fixes_stays() -> None:
    assert scales.widen(Axis(low=0.13), (0.13, 1.52)) == pytest.approx((0.13, 2.0))


@pytest.mark.parametrize(
    ("axis", "ends", "expected"),
    [
        (Axis(), (0.0, 2.0), ["0.0", "0.5", "1.0", "1.5", "2.0"]),
        (Axis(), (1.0, 40.0), ["10", "20", "30", "40"]),
        (Axis(), (-0.5, 0.5), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]),  # noqa: RUF001
        (Axis(), (0.0, 12000.0), ["0", "5,000", "10,000"]),
        (Axis(), (0.0, 3e-6), ["0", "1×10⁻⁶", "2×10⁻⁶", "3×10⁻⁶"]),  # noqa: RUF001
        (Axis(), (9.85e6, 1e7), ["9.85×10⁶", "9.9×10⁶", "9.95×10⁶", "1×10⁷"]),  # noqa: RUF001
        (Axis(unit="count"), (1.0, 4.0), ["1", "2", "3", "4"]),
        (Axis(unit="count"), (1.0, 2.0), ["1", "2"]),
        (Axis(unit="percent"), (0.4, 1.0), ["40%", "60%", "80%", "100%"]),
        (Axis(unit="percent"), (0.5, 0.51), ["50.0%", "50.2%", "50.4%", "50.6%", "50.8%", "51.0%"]),
        (Axis(kind="log"), (0.01, 100.0), ["0.01", "0.1", "1", "10", "100"]),
        (Axis(kind="log"), (1.0, 10.0), ["1", "2", "5", "10"]),
        (Axis(kind="log"), (1.0, 4.0), ["1", "2", "3", "4"]),
        (Axis(kind="log"), (1e-6, 1e-4), ["1×10⁻⁶", "1×10⁻⁵", "1×10⁻⁴"]),  # noqa: RUF001
    ],
)
def test_ticks_are_round(axis: Axis, ends: tuple[float, float], expected: list[str]) -> None:
    assert list(scales.labels(axis, scales.ticks(axis, ends))) == expected


@given(
    st.floats(-1e9, 1e9),
    st.floats(1e-6, 1e9),
    st.sampled_from(["number", "count", "percent"]),
)
def test_ticks_are_few_inside_and_told_apart(low: float, span: float, unit: scales.Unit) -> None:
    axis = Axis(unit=unit)
    ends = scales.widen(axis, scales.fit(axis, [low, low + span]))
    ticks = scales.ticks(axis, ends)
    slack = (ends[1] - ends[0]) * 1e-6
    assert ends[0] - slack <= low and low + span <= ends[1] + slack
    assert 2 <= len(ticks) <= scales.TICKS + 3
    assert ends[0] - slack <= ticks[0] and ticks[-1] <= ends[1] + slack
    if span > 1e-3 * abs(low):
        assert len(set(scales.labels(axis, ticks))) == len(ticks)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "number", "0"),
        (1.234, "number", "1.23"),
        (-0.0456, "number", "−0.0456"),  # noqa: RUF001
        (123.4, "number", "123"),
        (12345.6, "number", "12,346"),
        (3e-6, "number", "3×10⁻⁶"),  # noqa: RUF001
        (0.591, "percent", "59.1%"),
        (40.0, "count", "40"),
        (nan, "number", "none"),
    ],
)
def test_numbers_for_a_reader(value: float, unit: scales.Unit, text: str) -> None:
    assert scales.number(value, unit) == text


def test_ends_around_one_value_are_shares_and_counts() -> None:
    assert scales.fit(Axis(unit="percent"), [0.0, 0.0]) == (0.0, 1.0)
    assert scales.fit(Axis(unit="percent"), [1.0]) == (pytest.approx(0.9), 1.0)
    assert scales.fit(Axis(unit="count"), [0]) == (0.0, 1.0)
    assert scales.fit(Axis(unit="percent"), [-0.5]) == (pytest.approx(-0.55), pytest.approx(-0.45))
    assert scales.fit(Axis(), [0.0]) == (-1.0, 1.0)
