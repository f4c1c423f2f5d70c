"""Averages are exact where they can be: against integer arithmetic, over whole dtypes."""

import itertools
import math
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salsa_cli.maths import averaging
from salsa_cli.maths.averaging import Array, average, count_nonfinite, narrow, widen

# Significand bits, exponent of the smallest normal number, bits of +infinity.
FORMATS = {
    "BF16": (8, -126, 0x7F80),
    "F16": (11, -14, 0x7C00),
    "F32": (24, -126, 0x7F800000),
    "F64": (53, -1022, 0x7FF0 << 48),
}
DTYPES = tuple(FORMATS)
TRAP = 1 + 2.0**-8 + 2.0**-40  # just above the middle of 1 and the next bfloat16


def words(bits: Array) -> Array:
    return bits.view(f"u{bits.dtype.itemsize}")


def same(left: Array, right: Array) -> bool:
    """Equal to the last bit."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and bool(np.array_equal(words(left), words(right)))
    )


def every(dtype: str) -> Array:
    """All 65536 elements of a 16-bit dtype."""
    return np.arange(1 << 16, dtype=np.uint16).view(averaging.STORAGE[dtype])


def sample(dtype: str, size: int, seed: int, *, finite: bool = True) -> Array:
    """Elements of every exponent and sign, by random bits."""
    rng = np.random.default_rng(seed)
    storage = averaging.STORAGE[dtype]
    bits = np.frombuffer(rng.bytes(size * storage.itemsize), storage).copy()
    if finite:
        bits[~np.isfinite(widen(bits, dtype))] = 1
    return bits


def nearest_even(value: float | Fraction, dtype: str) -> int:
    """The bits of the number nearest to a finite value, by integer arithmetic alone."""
    digits, smallest, infinity = FORMATS[dtype]
    negative = math.copysign(1, value) < 0 if isinstance(value, float) else value < 0
    exact = abs(Fraction(value))
    exponent = smallest
    if exact:
        guess = exact.numerator.bit_length() - exact.denominator.bit_length()
        guess -= Fraction(2) ** guess > exact
        exponent = max(guess, smallest)
    steps, rest = divmod(exact / Fraction(2) ** (exponent - digits + 1), 1)
    steps += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and steps % 2 == 1)
    bits = min(((exponent - smallest) << (digits - 1)) + steps, infinity)
    return bits | negative << (8 * averaging.STORAGE[dtype].itemsize - 1)


def check_narrow(values: Sequence[float], dtype: str) -> None:
    got = words(narrow(np.array(values, np.float64), dtype)).tolist()
    for value, bits in zip(values, got, strict=True):
        assert bits == nearest_even(value, dtype), (value.hex(), hex(bits))


def wide_doubles(dtype: str, size: int) -> list[float]:
    """Doubles spread over the dtype's exponents and beyond both ends of them."""
    digits, smallest, _ = FORMATS[dtype]
    rng = np.random.default_rng(1)
    exponents = rng.integers(smallest - digits - 3, 3 - smallest, size)
    values = rng.uniform(1, 2, size) * rng.choice([-1.0, 1.0], size)
    with np.errstate(all="ignore"):
        return [float(x) for x in np.ldexp(values, exponents) if np.isfinite(x)]


def around_middles(dtype: str) -> list[float]:
    """Middles of neighbours, and the doubles just beside: double rounding goes wrong here."""
    rng = np.random.default_rng(2)
    *_, infinity = FORMATS[dtype]
    unsigned = words(np.empty(0, averaging.STORAGE[dtype])).dtype
    lower = [0, 1, 2, infinity - 2, *rng.integers(0, infinity - 2, 700).tolist()]
    below = widen(np.array(lower, unsigned).view(averaging.STORAGE[dtype]), dtype)
    above = widen(
        (np.array(lower, unsigned) + 1).astype(unsigned).view(averaging.STORAGE[dtype]), dtype
    )
    middle = below + (above - below) / 2
    near = [middle * (1 + sign * 2.0**-shift) for sign in (-1, 1) for shift in (25, 30, 40, 52)]
    positive = np.concatenate([middle, *near])
    return [float(x) for x in np.concatenate([positive, -positive])]


class TestWidenAndNarrow:
    def test_storage_names_the_four_floats(self) -> None:
        assert frozenset(FORMATS) == averaging.FLOATS
        assert averaging.STORAGE["BF16"] == np.uint16
        assert [averaging.STORAGE[name].itemsize for name in DTYPES] == [2, 2, 4, 8]

    @pytest.mark.parametrize("dtype", ["BF16", "F16"])
    def test_every_16_bit_pattern_survives(self, dtype: str) -> None:
        bits = every(dtype)
        values = widen(bits, dtype)
        back = narrow(values, dtype)
        nan = np.isnan(values)
        assert nan.sum() == 2 * ((1 << 16 - 1) - FORMATS[dtype][2] - 1)
        assert np.array_equal(words(back)[~nan], words(bits)[~nan])
        assert np.isnan(widen(back, dtype)[nan]).all()

    @pytest.mark.parametrize("dtype", ["BF16", "F16"])
    def test_every_16_bit_pattern_widens_to_its_value(self, dtype: str) -> None:
        foreign = every(dtype).view(ml_dtypes.bfloat16) if dtype == "BF16" else every(dtype)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            expected = foreign.astype(np.float64)
        assert np.array_equal(widen(every(dtype), dtype), expected, equal_nan=True)

    @pytest.mark.parametrize("dtype", ["F32", "F64"])
    def test_wider_patterns_survive(self, dtype: str) -> None:
        bits = sample(dtype, 50_000, 0)
        assert same(narrow(widen(bits, dtype), dtype), bits)

    def test_hand_worked_bfloat16(self) -> None:
        values = np.array([1.0, -2.0, 0.0, -0.0, TRAP, 1 + 2.0**-8, 1 + 3 * 2.0**-8, math.inf])
        expected = [0x3F80, 0xC000, 0x0000, 0x8000, 0x3F81, 0x3F80, 0x3F82, 0x7F80]
        assert narrow(values, "BF16").tolist() == expected

    def test_the_trap_is_real(self) -> None:
        """By way of float32, the trap value lands one bfloat16 lower."""
        twice = np.array([TRAP]).astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
        assert (int(twice[0]), int(narrow(np.array([TRAP]), "BF16")[0])) == (0x3F80, 0x3F81)
        assert nearest_even(TRAP, "BF16") == 0x3F81

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_random_doubles_against_integers(self, dtype: str) -> None:
        check_narrow(wide_doubles(dtype, 4000), dtype)

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_middles_against_integers(self, dtype: str) -> None:
        check_narrow(around_middles(dtype), dtype)

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_both_ends_of_the_range(self, dtype: str) -> None:
        digits, smallest, _ = FORMATS[dtype]
        tiny = 2.0 ** (smallest - digits + 1)
        too_large = 2.0 ** (1 - smallest) * (2 - 2.0**-digits)  # ties to infinity
        ends = [
            *(tiny * x for x in (0.25, 0.5, 0.5 + 2**-50, 0.75, 1.0, 1.5, 2.5, 3.5)),
            *(2.0**smallest - tiny * x for x in (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)),
            *(too_large * (1 + x) for x in (-(2.0**-52), 0, 2.0**-52)),
            *(0.0, 5e-324, 1.7976931348623157e308),
        ]
        check_narrow(ends + [-x for x in ends], dtype)

    @settings(max_examples=300, deadline=None)
    @given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(DTYPES))
    def test_any_double_against_integers(self, value: float, dtype: str) -> None:
        check_narrow([value], dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_no_nan_becomes_a_number(self, dtype: str) -> None:
        """Payloads at both ends: a rounding carry would turn the largest into a zero."""
        payloads = [1, 2**44, 2**45 - 1, 2**45, 2**51, 2**52 - 1]
        bits = [sign << 63 | 0x7FF << 52 | payload for sign in (0, 1) for payload in payloads]
        nans = np.array(bits, np.uint64).view(np.float64)
        assert np.isnan(widen(narrow(nans, dtype), dtype)).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_shapes_and_blocks(self, dtype: str) -> None:
        for shape in [(), (0,), (1,), (3, 0), (2, 3), (averaging._BLOCK + 1,)]:
            values = np.random.default_rng(0).standard_normal(shape)
            values = np.asarray(values, np.float64)
            bits = narrow(values, dtype)
            assert bits.shape == shape and bits.dtype == averaging.STORAGE[dtype]
            back = widen(bits, dtype)
            assert back.shape == shape and back.dtype == np.float64
            assert np.allclose(back, values, rtol=2.0 ** -FORMATS[dtype][0], atol=1e-7)

    def test_wrong_storage_is_refused(self) -> None:
        with pytest.raises(ValueError, match="BF16 is stored as uint16, not as float32"):
            widen(np.zeros(1, np.float32), "BF16")
        with pytest.raises(ValueError, match="I64 is not one of BF16"):
            narrow(np.zeros(1), "I64")
        with pytest.raises(ValueError, match="not as float32"):
            narrow(np.zeros(1, np.float32), "F32")


def left_to_right(
    columns: Sequence[Array], dtypes: Sequence[str], weights: Sequence[float], dtype: str
) -> Array:
    """What `average` promises, in Python floats: products and sums in float64, rounded once."""
    values = [widen(column, name).tolist() for column, name in zip(columns, dtypes, strict=True)]
    sums = []
    for row in zip(*values, strict=True):
        total = weights[0] * row[0]
        for weight, value in zip(weights[1:], row[1:], strict=True):
            total += weight * value
        sums.append(nearest_even(total, dtype))
    storage = averaging.STORAGE[dtype]
    return np.array(sums, f"u{storage.itemsize}").view(storage)


RECIPES = [
    (0.5, 0.5),
    (0.7, 0.3),
    (1 / 3, 1 / 3, 1 / 3),
    (0.5, 0.3, 0.2),
    (0.25, 0.25, 0.25, 0.25),
    (0.1, 0.2, 0.3, 0.15, 0.25),
    (1.5, -0.5),
    (2.0,),
    (0.5,),
]


class TestAverage:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("weights", RECIPES)
    def test_is_the_float64_sum_rounded_once(self, weights: tuple[float, ...], dtype: str) -> None:
        """Of models that differ little, as two fine-tunes of one model do."""
        rng = np.random.default_rng(5)
        base = rng.standard_normal(600) * 0.02
        columns = [narrow(base + rng.standard_normal(600) * 0.001, dtype) for _ in weights]
        dtypes = [dtype] * len(weights)
        got = average(columns, dtypes, weights, dtype)
        assert same(got, left_to_right(columns, dtypes, weights, dtype))

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    @pytest.mark.parametrize("weights", [(0.5, 0.5), (0.25, 0.75), (0.7, 0.3), (1.0, -0.5)])
    def test_over_all_exponents(self, weights: tuple[float, ...], dtype: str) -> None:
        columns = [sample(dtype, 1500, seed) for seed in range(2)]
        got = average(columns, [dtype] * 2, weights, dtype)
        assert same(got, left_to_right(columns, [dtype] * 2, weights, dtype))

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_halves_are_the_exact_mean_rounded_once(self, dtype: str) -> None:
        """float64 has more than twice their digits, so the sum's own rounding cannot be seen."""
        left, right = (sample(dtype, 1500, seed) for seed in range(2))
        got = words(average([left, right], [dtype] * 2, (0.5, 0.5), dtype)).tolist()
        pairs = zip(widen(left, dtype).tolist(), widen(right, dtype).tolist(), strict=True)
        expected = [nearest_even((Fraction(a) + Fraction(b)) / 2, dtype) for a, b in pairs]
        assert got == expected

    @pytest.mark.parametrize("weights", [(0.7, 0.3), (1 / 3, 1 / 3, 1 / 3)])
    def test_is_within_half_a_step_of_the_exact_mean(self, weights: tuple[float, ...]) -> None:
        """The exact mean lies no farther than half a bfloat16 step and the float64 sum's error."""
        rng = np.random.default_rng(6)
        columns = [narrow(rng.standard_normal(2000), "BF16") for _ in weights]
        got = widen(average(columns, ["BF16"] * len(weights), weights, "BF16"), "BF16").tolist()
        rows = zip(*(widen(column, "BF16").tolist() for column in columns), strict=True)
        for mean, row in zip(got, rows, strict=True):
            terms = [Fraction(w) * Fraction(x) for w, x in zip(weights, row, strict=True)]
            exact, size = sum(terms, Fraction()), sum(map(abs, terms), Fraction())
            step = Fraction(2) ** (math.frexp(mean)[1] - 8)
            assert abs(Fraction(mean) - exact) <= step / 2 + size * Fraction(3, 2**53)

    @pytest.mark.parametrize(
        "weights",
        [(0.5, 0.5), (0.25, 0.75), (0.5, 0.25), (-0.5, 1.0), (2.0**-16, 1.0), (1.0,), (0.25,)],
    )
    def test_float32_shortcut_changes_no_bit(
        self, weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every bfloat16 against random others and against those that make a middle with it."""
        rng = np.random.default_rng(7)
        left = np.tile(every("BF16"), 4)
        near = (left.astype(np.int64) - (rng.integers(0, 26, left.size) << 7)) & 0x7FFF
        near |= rng.integers(0, 2, left.size) << 15
        for right in (near.astype(np.uint16), sample("BF16", left.size, 8, finite=False)):
            columns = [left, right][: len(weights)]
            dtypes = ["BF16"] * len(weights)
            short = average(columns, dtypes, weights, "BF16")
            with monkeypatch.context() as patch:
                patch.setattr(averaging, "_float32_suffices", lambda dtypes, weights: False)
                long = average(columns, dtypes, weights, "BF16")
            nan = np.isnan(widen(long, "BF16"))
            assert np.array_equal(short[~nan], long[~nan])
            assert np.isnan(widen(short, "BF16")[nan]).all()

    def test_float32_shortcut_is_taken_only_where_it_is_proved(self) -> None:
        suffices = averaging._float32_suffices
        assert suffices(["BF16", "BF16"], [0.5, 0.5]) and suffices(["BF16"], [-(2.0**-16)])
        assert not suffices(["BF16", "BF16"], [0.7, 0.3])
        assert not suffices(["BF16", "F32"], [0.5, 0.5])
        assert not suffices(["BF16"] * 3, [0.25, 0.25, 0.5])
        assert not suffices(["BF16", "BF16"], [2.0, -1.0])
        assert not suffices(["BF16", "BF16"], [2.0**-17, 1.0])

    def test_float32_inputs_to_bfloat16_do_not_take_the_shortcut(self) -> None:
        half = np.array([TRAP], np.float64)
        assert average([half, half * 0 + 1], ["F64", "F64"], (1.0, 0.0), "BF16")[0] == 0x3F81
        assert average([half, half], ["F64", "F64"], (0.5, 0.5), "BF16")[0] == 0x3F81

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("weights", [recipe for recipe in RECIPES if len(recipe) > 1])
    def test_equal_inputs_give_equal_bytes(self, weights: tuple[float, ...], dtype: str) -> None:
        bits = sample(dtype, 3000, 9, finite=False)  # NaN payloads and infinities included
        copies = [bits.copy() for _ in weights]
        assert same(average(copies, [dtype] * len(weights), weights, dtype), bits)

    def test_the_sum_alone_would_not_keep_equal_float64(self) -> None:
        values = np.random.default_rng(0).standard_normal(1000)
        assert (0.7 * values + 0.3 * values != values).any()
        assert same(average([values, values], ["F64"] * 2, (0.7, 0.3), "F64"), values)

    def test_elements_are_kept_one_by_one(self) -> None:
        """Also where their neighbours differ, and only where all three agree."""
        snan = 0x7F81
        columns = [
            np.array(bits, np.uint16)
            for bits in ([snan, 0x8000, 0x3F80], [snan, 0x8000, 0x3F80], [snan, 0x8000, 0x4000])
        ]
        got = average(columns, ["BF16"] * 3, (0.25, 0.25, 0.5), "BF16")
        assert got.tolist() == [snan, 0x8000, 0x3FC0]

    def test_equal_inputs_are_scaled_if_the_weights_do_not_sum_to_one(self) -> None:
        ones = np.ones(3, np.float32)
        assert average([ones, ones], ["F32"] * 2, (1.0, 1.0), "F32").tolist() == [2.0] * 3
        assert average([ones], ["F32"], (0.5,), "F32").tolist() == [0.5] * 3
        assert average([ones, ones], ["F32"] * 2, (0.5, 0.5 + 1e-6), "F32")[0] != 1

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_weight_of_one_returns_the_bytes(self, dtype: str) -> None:
        bits, others = sample(dtype, 3000, 10, finite=False), sample(dtype, 3000, 11, finite=False)
        assert same(average([bits, others], [dtype] * 2, (1.0, 0.0), dtype), bits)
        assert same(average([others, bits], [dtype] * 2, (0.0, 1.0), dtype), bits)
        assert same(average([others, others, bits], [dtype] * 3, (0, 0, 1), dtype), bits)

    def test_the_result_is_no_view_of_an_input(self) -> None:
        bits = np.ones(3, np.float32)
        average([bits], ["F32"], (1.0,), "F32")[:] = 7
        assert bits.tolist() == [1.0] * 3

    def test_a_weight_of_zero_hides_infinities(self) -> None:
        wild = np.array([math.inf, math.nan, -math.inf], np.float32)
        ones = np.ones(3, np.float32)
        assert average([wild, ones, ones], ["F32"] * 3, (0.0, 0.5, 0.5), "F32").tolist() == [1] * 3

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_infinities_and_nans_spread(self, dtype: str) -> None:
        inf, nan = math.inf, math.nan
        left = narrow(np.array([inf, inf, nan, 1.0, -inf]), dtype)
        right = narrow(np.array([1.0, -inf, 1.0, nan, -inf]), dtype)
        for weights in [(0.5, 0.5), (0.7, 0.3)]:
            got = widen(average([left, right], [dtype] * 2, weights, dtype), dtype)
            assert np.array_equal(got, [inf, nan, nan, nan, -inf], equal_nan=True)

    def test_overflow_is_an_infinity(self) -> None:
        largest = np.array([0x7F7F], np.uint16)
        for weights in [(1.0, 1.0), (1.1, 0.9)]:
            assert average([largest, largest], ["BF16"] * 2, weights, "BF16")[0] == 0x7F80

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_zeros_keep_their_sign(self, dtype: str) -> None:
        zero = narrow(np.array([-0.0, -0.0, 0.0]), dtype)
        other = narrow(np.array([-0.0, 0.0, 0.0]), dtype)
        got = widen(average([zero, other], [dtype] * 2, (0.6, 0.3), dtype), dtype)
        assert np.signbit(got).tolist() == [True, False, False]

    @pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, DTYPES)))
    def test_mixed_dtypes(self, dtypes: tuple[str, str]) -> None:
        rng = np.random.default_rng(12)
        columns = [narrow(rng.standard_normal(60), dtype) for dtype in dtypes]
        for dtype, weights in itertools.product(DTYPES, [(0.5, 0.5), (0.7, 0.3)]):
            got = average(columns, dtypes, weights, dtype)
            assert same(got, left_to_right(columns, dtypes, weights, dtype))

    def test_a_weight_of_one_converts(self) -> None:
        values = np.array([TRAP, -0.0, 65520.0])
        expected = {"BF16": [0x3F81, 0x8000, 0x4780], "F16": [0x3C04, 0x8000, 0x7C00]}
        for dtype, bits in expected.items():
            got = average([values, values], ["F64", "F64"], (0, 1), dtype)
            assert words(got).tolist() == bits

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_any_finite_inputs(self, data: st.DataObject) -> None:
        dtype = data.draw(st.sampled_from(["BF16", "F16", "F32"]))
        number = data.draw(st.integers(1, 5))
        share = st.floats(-2, 2).filter(lambda weight: weight != 0)
        weights = data.draw(st.lists(share, min_size=number, max_size=number))
        seed = data.draw(st.integers(0, 2**32))
        columns = [sample(dtype, 4, seed + i) for i in range(number)]
        dtypes = [dtype] * number
        got = average(columns, dtypes, weights, dtype)
        assert same(got, left_to_right(columns, dtypes, weights, dtype))

    @pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (2, 3)])
    @pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3), (1.0, 0.0)])
    def test_shapes(self, shape: tuple[int, ...], weights: tuple[float, float]) -> None:
        for dtype in DTYPES:
            piece = narrow(np.full(shape, 3.0), dtype)
            got = average([piece, piece], [dtype] * 2, weights, dtype)
            assert same(got, piece)

    @pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3)])
    def test_blocks_do_not_show(self, weights: tuple[float, float]) -> None:
        size = 2 * averaging._BLOCK + 3
        columns = [sample("BF16", size, seed) for seed in (13, 14)]
        got = average(columns, ["BF16"] * 2, weights, "BF16")
        for part in (
            slice(0, 5),
            slice(averaging._BLOCK - 2, averaging._BLOCK + 2),
            slice(size - 4, size),
        ):
            pieces = [column[part] for column in columns]
            assert same(got[part], average(pieces, ["BF16"] * 2, weights, "BF16"))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_memory_is_bounded_by_the_block(self, dtype: str) -> None:
        size = 40 * averaging._BLOCK
        columns = [np.ones(size, averaging.STORAGE[dtype]) for _ in range(2)]
        for weights in [(0.5, 0.5), (0.7, 0.3)]:
            tracemalloc.start()
            average(columns, [dtype] * 2, weights, dtype)
            count_nonfinite(columns[0], dtype)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            # Subnormal bfloat16, the worst case: every element is looked at apart.
            assert peak <= columns[0].nbytes + 96 * averaging._BLOCK  # 96 bytes an element

    def test_no_warning_escapes(self, recwarn: pytest.WarningsRecorder) -> None:
        for dtype in DTYPES:
            bits = sample(dtype, 4000, 15, finite=False)
            average([bits, bits[::-1].copy()], [dtype] * 2, (0.7, 0.3), "F16")
            average([bits, bits[::-1].copy()], [dtype] * 2, (0.5, 0.5), "BF16")
        assert not recwarn.list

    @pytest.mark.parametrize(
        ("shapes", "dtypes", "weights", "message"),
        [
            ([(2,), (3,)], ["F32", "F32"], [0.5, 0.5], "shapes differ"),
            ([(2,), (2, 1)], ["F32", "F32"], [0.5, 0.0], "shapes differ"),
            ([(2,)], ["F32", "F32"], [0.5, 0.5], "1 pieces, 2 dtypes, 2 weights"),
            ([(2,), (2,)], ["F32", "F32"], [1.0], "2 pieces, 2 dtypes, 1 weights"),
            ([(2,), (2,)], ["F32", "F32"], [0.0, 0.0], "all weights are 0"),
            ([], [], [], "all weights are 0"),
            ([(2,), (2,)], ["F32", "F32"], [math.nan, 1.0], "not finite"),
            ([(2,), (2,)], ["F32", "F32"], [math.inf, 1.0], "not finite"),
            ([(2,), (2,)], ["F32", "BF16"], [0.5, 0.5], "stored as uint16"),
        ],
    )
    def test_wrong_calls(
        self,
        shapes: list[tuple[int, ...]],
        dtypes: list[str],
        weights: list[float],
        message: str,
    ) -> None:
        pieces = [np.zeros(shape, np.float32) for shape in shapes]
        with pytest.raises(ValueError, match=message):
            average(pieces, dtypes, weights, "F32")


class TestCountNonfinite:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_counts_nans_and_both_infinities(self, dtype: str) -> None:
        largest = words(narrow(np.array([math.inf]), dtype))[0] - 1
        bits = narrow(np.array([math.inf, -math.inf, math.nan, -math.nan, 0.0, -1.0]), dtype)
        assert count_nonfinite(bits, dtype) == 4
        assert count_nonfinite(np.array([largest]).view(bits.dtype), dtype) == 0
        assert count_nonfinite(bits[:0], dtype) == 0
        assert count_nonfinite(bits.reshape(2, 3), dtype) == 4

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_agrees_with_numpy_across_blocks(self, dtype: str) -> None:
        bits = sample(dtype, averaging._BLOCK + 77, 16, finite=False)
        bits[-1] = narrow(np.array([math.nan]), dtype)[0]
        expected = int(np.sum(~np.isfinite(widen(bits, dtype))))
        assert expected and count_nonfinite(bits, dtype) == expected

    def test_wrong_storage_is_refused(self) -> None:
        with pytest.raises(ValueError, match="stored as uint16"):
            count_nonfinite(np.zeros(1), "BF16")


FINE_TUNES = (
    (0.7, 0.3),
    (0.9, 0.1),
    (2 / 3, 1 / 3),
    (0.3, 0.3, 0.4),
    (0.1, 0.2, 0.3, 0.4),
)


def near(first: Array, count: int, units: int, seed: int) -> list[Array]:
    """bfloat16 bits and others a few units in the last place away, as fine-tunes are."""
    generator = np.random.default_rng(seed)
    others = [
        (first.astype(np.int64) + generator.integers(-units, units + 1, first.size)) & 0xFFFF
        for _ in range(count - 1)
    ]
    return [first, *(other.astype(np.uint16) for other in others)]


@pytest.mark.parametrize("weights", FINE_TUNES)
@pytest.mark.parametrize("units", [2, 20])
def test_float32_gives_what_float64_gives(weights: tuple[float, ...], units: int) -> None:
    """All bfloat16 numbers, zeros, infinities and both ends of the range among them."""
    every = np.tile(np.arange(1 << 16, dtype=np.uint16), 4)
    parts = near(every, len(weights), units, seed=units)
    with np.errstate(all="ignore"):
        total = weights[0] * averaging.widen(parts[0], "BF16")
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            total += weight * averaging.widen(part, "BF16")
    found = averaging.average(parts, ["BF16"] * len(parts), weights, "BF16")
    is_nan = np.isnan(total)
    assert np.array_equal(found[~is_nan], averaging.narrow(total, "BF16")[~is_nan])
    assert np.isnan(averaging.widen(found, "BF16")[is_nan]).all()
    # Both sides of every middle of two numbers: 0.75 + 0.25 and 0.25 + 0.75 of a unit, nearly.
    low = np.arange(0x3F80, 0x4080, dtype=np.uint16)
    for weight in (0.5 + 2.0**-30, 0.5 - 2.0**-30, 0.5 + 2.0**-24):
        pair = [low, low + np.uint16(1)]
        exact = (1 - weight) * averaging.widen(pair[0], "BF16")
        exact += weight * averaging.widen(pair[1], "BF16")
        found = averaging.average(pair, ["BF16"] * 2, (1 - weight, weight), "BF16")
        assert np.array_equal(found, averaging.narrow(exact, "BF16"))


def test_small_differences_of_large_numbers_are_exact() -> None:
    """Opposite signs cancel: a float32 sum has lost its digits."""
    first = np.arange(0x4000, 0x4800, dtype=np.uint16)
    other = first | 0x8000
    for weight in (0.3, 0.5 + 2.0**-20, 0.5 + 1e-4, 0.5003):
        for share in (1, 16):  # all pairs cancel, or one in sixteen
            pair = [first, np.where(np.arange(first.size) % share, first, other)]
            exact = (1 - weight) * averaging.widen(pair[0], "BF16")
            exact += weight * averaging.widen(pair[1], "BF16")
            found = averaging.average(pair, ["BF16"] * 2, (1 - weight, weight), "BF16")
            assert np.array_equal(found, averaging.narrow(exact, "BF16"))


@pytest.mark.parametrize("weight", [0.3, 0.1, 0.25, 1 / 3, 0.999, 2.0**-16])
@pytest.mark.parametrize("spread", [1, 5, 300])
def test_neighbours_are_averaged_as_in_float64(weight: float, spread: int) -> None:
    """Every bfloat16 with numbers few places away: many are averaged to a middle of two."""
    rng = np.random.default_rng(spread)
    left = np.tile(every("BF16"), 4 if spread < 300 else 20)
    apart = rng.integers(-spread, spread + 1, left.size)
    right = (left + apart).astype(np.uint16)
    pair = [left, right]
    assert left.size >= averaging._NEAR_LEAST
    mixing = (1 - weight, weight)
    with np.errstate(all="ignore"):
        exact = mixing[0] * averaging.widen(left, "BF16") + weight * averaging.widen(right, "BF16")
    found = averaging.average(pair, ["BF16"] * 2, mixing, "BF16")
    expected = averaging.narrow(exact, "BF16")
    expected[left == right] = left[left == right]
    is_nan = np.isnan(averaging.widen(expected, "BF16"))
    assert np.array_equal(found[~is_nan], expected[~is_nan])
    assert np.isnan(averaging.widen(found, "BF16")[is_nan]).all()
    assert np.array_equal(found[left == right], left[left == right])


def test_numbers_that_come_far_apart_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first regions by the table, the rest without it."""
    monkeypatch.setattr(averaging, "_NEAR_REGION", 1 << 16)
    rng = np.random.default_rng(0)
    left = np.tile(every("BF16"), 4)
    right = left.copy()
    right[2 << 16 :] = rng.permutation(left[2 << 16 :])
    right[: 2 << 16 : 50] = rng.permutation(right[: 2 << 16 : 50])
    done = averaging._average_near(left, right, (0.7, 0.3), np.empty_like(left))
    assert done == 2 << 16
    exact = 0.7 * averaging.widen(left, "BF16") + 0.3 * averaging.widen(right, "BF16")
    found = averaging.average([left, right], ["BF16"] * 2, (0.7, 0.3), "BF16")
    expected = averaging.narrow(exact, "BF16")
    is_nan = np.isnan(exact)
    same = left == right
    assert np.array_equal(found[~is_nan & ~same], expected[~is_nan & ~same])
    assert np.array_equal(found[same], left[same])
