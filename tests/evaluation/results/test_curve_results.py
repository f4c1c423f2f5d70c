"""Curves of arms by hand: means, bands, ends, and settings that differ."""

import json
from math import isnan, nan

import pytest

from salsa_cli.evaluation.results import curve_results
from salsa_cli.evaluation.results.curve_results import ArmEnd, CurveResult, Difference
from salsa_cli.records import to_json


def test_the_mean_and_the_band_of_three_runs() -> None:
    runs = [{1: 1.0, 2: 4.0, 3: 0.0}, {1: 2.0, 2: 5.0}, {1: 6.0, 2: 0.0, 3: 9.0}]
    found = curve_results.curve("reward", "salsa", runs)
    assert found.update == (1, 2)  # the second run has no third update
    assert found.mean == (3.0, 3.0)
    assert (found.low, found.high) == ((1.0, 0.0), (6.0, 5.0))


def test_a_single_run_has_a_band_only_with_standard_errors() -> None:
    bare = curve_results.curve("reward", "ppo", [{1: 1.0}])
    assert (bare.mean, bare.low, bare.high) == ((1.0,), None, None)
    held_out = curve_results.curve("heldout/reward", "ppo", [{0: 1.0, 5: 2.0}], {0: 0.5, 5: 0.25})
    assert held_out.low == pytest.approx((1 - 0.98, 2 - 0.49))
    assert held_out.high == pytest.approx((1 + 0.98, 2 + 0.49))
    # The spread of several runs says more than the errors of each.
    several = curve_results.curve("heldout/reward", "ppo", [{0: 1.0}, {0: 3.0}], None)
    assert (several.low, several.high) == ((1.0,), (3.0,))


def test_a_value_that_is_not_finite_is_a_gap() -> None:
    found = curve_results.curve("reward", "x", [{1: 1.0, 2: nan}, {1: 2.0, 2: 3.0}])
    assert isnan(found.mean[1]) and found.low is not None and isnan(found.low[1])


def test_the_end_is_the_mean_of_the_last_five_that_are_known() -> None:
    values = {n: float(n) for n in range(1, 9)}
    assert curve_results.last(values) == 6.0
    assert curve_results.last({**values, 9: nan}) == 6.0
    assert curve_results.last({1: 3.0}) == 3.0 and isnan(curve_results.last({}))


def test_settings_that_differ() -> None:
    common = {"kl_coef": 0.05, "ref": ["a"], "lora": None}
    found = curve_results.differences(
        {
            "salsa": [{**common, "ref": ["s"]}, {**common, "ref": ["s"], "kl_coef": 0.1}],
            "ppo": [{**common, "extra": []}],
        }
    )
    assert found == (
        Difference("kl_coef", {"salsa": "0.05; 0.1", "ppo": "0.05"}),
        Difference("ref", {"salsa": "s", "ppo": "a"}),
        Difference("extra", {"salsa": "not recorded", "ppo": "none"}),
    )
    assert curve_results.differences({"a": [common], "b": [common]}) == ()


def test_the_result_survives_json() -> None:
    end = ArmEnd("salsa", ("s1", "s2"), (1, None), (12, 10), 1.0, 0.5, 1.5, nan, 7.0)
    band = curve_results.curve("reward", "salsa", [{1: 1.0, 2: nan}, {1: 2.0, 2: 3.0}])
    line = curve_results.curve("reward", "ppo", [{1: 1.0}])
    differences = (Difference("ref", {"salsa": "s"}),)
    result = CurveResult("out", (end,), differences, (band, line), ("a remark",), 0.5)
    again = CurveResult.of(json.loads(to_json(result.record())))
    assert repr(again) == repr(result)  # NaN is not equal to itself, but is written alike
    text, table = again.summary()
    assert text.splitlines() == [
        *("settings that differ: ref", "a remark", "out: curves of 2 runs in 0.5 s")
    ]
    assert table is not None
    assert table.rows == [
        ("salsa", "2", "10 to 12", "1.000", "0.500 to 1.500", "nan", "7.000"),
    ]
    assert [title for title, _ in again.tables()] == ["Last updates", "Settings that differ"]
