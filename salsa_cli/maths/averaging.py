"""Weighted averages of stored tensors: summed in float64, rounded once.

A stored tensor is a NumPy array of *storage elements* together with the name its dtype has in the
safetensors format. NumPy has no bfloat16, so the bits of a `BF16` tensor are held as `uint16`;
`F16`, `F32` and `F64` are NumPy's own floats.

Everything here is pure and works on blocks that fit the processor's cache, so that it needs only a
few blocks of memory in addition to the result.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STORAGE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BF16": np.dtype(np.uint16),
        "F16": np.dtype(np.float16),
        "F32": np.dtype(np.float32),
        "F64": np.dtype(np.float64),
    }
)
"""The NumPy dtype that holds the elements of each float dtype that can be averaged."""

FLOATS: frozenset[str] = frozenset(STORAGE)
"""The safetensors names of the dtypes that can be averaged."""

INTEGERS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"BOOL": np.dtype(np.bool_)}
    | {
        f"{kind}{8 * width}": np.dtype(f"{kind.lower()}{width}")
        for kind in "IU"
        for width in (1, 2, 4, 8)
    }
)
"""The NumPy dtypes of integers and booleans."""


def _eight_bits(exponent: int, bias: int, special: str) -> npt.NDArray[np.float64]:
    """The 256 values of an 8-bit float of `exponent` bits; `special` says how NaN is coded."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent
    power = (codes >> mantissa_bits & (1 << exponent) - 1).astype(np.float64)
    fraction = (codes & (1 << mantissa_bits) - 1) / 2.0**mantissa_bits
    normal = power > 0
    values = (fraction + normal) * 2.0 ** (np.where(normal, power, 1.0) - bias)
    if special == "ieee":
        top = power == (1 << exponent) - 1
        values[top] = np.where(fraction[top] == 0, np.inf, np.nan)
    elif special == "fn":
        values[[0x7F, 0xFF]] = np.nan
    values = np.where(codes & 0x80, -values, values)
    if special == "fnuz":
        values[0x80] = np.nan
    values.setflags(write=False)
    return values


EIGHT_BITS: Mapping[str, npt.NDArray[np.float64]] = MappingProxyType(
    {
        "F8_E4M3": _eight_bits(4, 7, "fn"),
        "F8_E5M2": _eight_bits(5, 15, "ieee"),
        "F8_E4M3FNUZ": _eight_bits(4, 8, "fnuz"),
        "F8_E5M2FNUZ": _eight_bits(5, 16, "fnuz"),
        "F8_E8M0": np.array([*(2.0 ** np.arange(-127.0, 128.0)), np.nan]),
    }
)
"""The value of each byte of an 8-bit float. Such tensors can be averaged but not written."""

_BLOCK = 1 << 16
_MOST_INPUTS = 8
_MARGIN = 32  # float32 units from the middle of two bfloat16 within which float32 is not trusted
# bits of the bfloat16 2^-100: smaller products may be subnormal, and some libraries make the
# processor flush those to zero
_SAFE_LOW = (127 - 100) << 7
_NEAR = 255  # places between two bfloat16 numbers up to which a table has their average
_NEAR_LOW, _NEAR_HIGH = 0x0280, 0x7D80  # bits between which such a pair is normal and finite
_NEAR_LEAST = 1 << 17  # elements from which on a table is worth its millisecond
_NEAR_BLOCK = 1 << 15  # elements whose buffers fit into the cache of a core
_NEAR_REGION = 1 << 20  # elements of which the far ones are computed together
_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0 << 48}
_BF16_NORMAL = 2.0**-126  # the smallest normal bfloat16; below it they are multiples of 2^-133
_DROPPED = np.uint64(45)  # significand bits a float64 (53) has more than a bfloat16 (8)


def widen(bits: Array, dtype: str) -> npt.NDArray[np.float64]:
    """The values of stored elements as float64, exactly.

    `bits` holds storage elements of `dtype`, in any shape; the result has that shape. A signalling
    NaN becomes a quiet one.

    Raises:
        ValueError: `bits` has the wrong dtype for `dtype`.
    """
    flat = _flat(bits, dtype)
    result = np.empty(flat.size, np.float64)
    scratch = _Scratch(flat.size)
    with np.errstate(all="ignore"):
        for block in _blocks(flat.size):
            _widen_into(flat[block], dtype, result[block], scratch)
    return result.reshape(bits.shape)


def narrow(values: npt.NDArray[np.float64], dtype: str) -> Array:
    """float64 values as storage elements of `dtype`, rounded once, to nearest, ties to even.

    Subnormal results are rounded correctly too. Values that are too large become infinite, zeros
    keep their sign, NaNs stay NaNs (the payload may change). The result has the shape of `values`.

    Raises:
        ValueError: `dtype` is unknown, or `values` is not float64.
    """
    flat = _flat(values, "F64")
    result = np.empty(flat.size, _storage(dtype))
    scratch = _Scratch(flat.size)
    with np.errstate(all="ignore"):
        for block in _blocks(flat.size):
            _narrow_into(flat[block], dtype, result[block], scratch)
    return result.reshape(values.shape)


def average(
    pieces: Sequence[Array], dtypes: Sequence[str], weights: Sequence[float], dtype: str
) -> Array:
    """The weighted sum of equally shaped pieces, as storage elements of `dtype`.

    Piece i holds storage elements of `dtypes[i]`. The result, of the same shape, is
    `w[0] * x[0] + w[1] * x[1] + ...`, every product and every sum rounded to float64, from left to
    right, and the last sum rounded once to `dtype`. In addition:

    - a piece of weight 0 is ignored, so its NaN or Inf does not spread;
    - where all other pieces hold the same bits in `dtype`, and the weights sum to 1 (up to their
      own rounding), those bits are the result, NaN payloads included. The sum alone would not do
      that: in float64, 0.7 * x + 0.3 * x may miss x by one unit in the last place.

    So a weight of 1 among zeros returns that piece's bytes, if its dtype is `dtype`.

    Raises:
        ValueError: the lengths or the shapes differ, a piece has the wrong dtype, a weight is not
            finite, or all weights are 0.
    """
    shape = pieces[0].shape if pieces else ()
    result = np.empty(math.prod(shape), _storage(dtype))
    average_into(result, pieces, dtypes, weights, dtype)
    return result.reshape(shape)


def average_into(
    result: Array,
    pieces: Sequence[Array],
    dtypes: Sequence[str],
    weights: Sequence[float],
    dtype: str,
) -> None:
    """Like `average`, but writes into `result`, flat storage elements of `dtype`."""
    counted = _counted(pieces, dtypes, weights)
    flats = [_flat(piece, name) for piece, name, _ in counted]
    names = [name for _, name, _ in counted]
    factors = [weight for _, _, weight in counted]
    keeps_equal = all(name == dtype for name in names) and _sum_to_one(factors)
    if keeps_equal and len(flats) == 1:
        result[:] = flats[0]
        return
    in_float32 = dtype == "BF16" and _float32_suffices(names, factors)
    mostly = dtype == "BF16" and not in_float32 and _float32_mostly_suffices(names, factors)
    if mostly and keeps_equal and len(flats) == 2 and result.size >= _NEAR_LEAST:
        done = _average_near(flats[0], flats[1], factors, result)
        flats, result = [flat[done:] for flat in flats], result[done:]
    scratch = _Scratch(result.size)
    with np.errstate(all="ignore"):
        for block in _blocks(result.size):
            parts = [flat[block] for flat in flats]
            total: Array
            if mostly:
                mostly = _average_mostly_in_float32(
                    parts, factors, result[block], scratch, keeps_equal
                )
                if mostly:
                    continue
            if in_float32:
                total = _sum_in_float32(parts, factors, result[block], scratch)
            else:
                total = _sum_in_float64(parts, names, factors, scratch)
                _narrow_into(total, dtype, result[block], scratch)
            # A float64 sum of equal values may be off by one unit in the last place, which rounding
            # to a narrower dtype undoes; a NaN may lose its payload in any dtype.
            if keeps_equal and (dtype == "F64" or np.isnan(total.max())):
                _keep_equal(parts, dtype, result[block])


def average_integers(pieces: Sequence[Array], dtype: str, weights: Sequence[float]) -> Array:
    """The weighted mean of integers, rounded to nearest, ties to even.

    `pieces` are equally shaped storage of `dtype`, unsigned words of its width, and so is the
    result. The sum is computed in float64, which is exact for integers up to 2^53. Values outside
    the range of `dtype` are clipped.

    Raises:
        ValueError: `dtype` is not in `INTEGERS`.
    """
    if dtype not in INTEGERS:
        raise ValueError(f"{dtype} is not one of {', '.join(INTEGERS)}")
    number = INTEGERS[dtype]
    total = sum(
        weight * piece.view(number).astype(np.float64)
        for piece, weight in zip(pieces, weights, strict=True)
    )
    rounded = np.rint(np.asarray(total))
    if number == np.bool_:
        flags: Array = (rounded != 0).view(np.uint8)
        return flags
    limits = np.iinfo(number)
    inside = np.clip(rounded, float(limits.min), np.nextafter(float(limits.max), 0))
    result = np.where(rounded >= limits.max, limits.max, inside.astype(number))
    return result.astype(number).view(f"u{number.itemsize}")


def count_nonfinite(bits: Array, dtype: str) -> int:
    """How many of the storage elements of `dtype` are NaN or infinite.

    `bits` has any shape.

    Raises:
        ValueError: `bits` has the wrong dtype for `dtype`.
    """
    words = _words(_flat(bits, dtype))
    if dtype in EIGHT_BITS:
        return int(np.count_nonzero(~np.isfinite(EIGHT_BITS[dtype])[words]))
    mask = words.dtype.type(_EXPONENT[dtype])
    return sum(
        int(np.count_nonzero((words[block] & mask) == mask)) for block in _blocks(words.size)
    )


class _Scratch:
    """Scratch buffers for one block, reused for every block."""

    def __init__(self, size: int) -> None:
        size = min(size, _BLOCK)
        self.total = np.empty(size, np.float64)
        self.term = np.empty(size, np.float64)
        self.singles = np.empty(size, np.float32)
        self.singles_term = np.empty(size, np.float32)
        self.halves = np.empty(size, np.uint16)
        self.flags = np.empty(size, np.bool_)


def _blocks(size: int) -> Iterator[slice]:
    for begin in range(0, size, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, size))


def _storage(dtype: str) -> np.dtype[Any]:
    if dtype in EIGHT_BITS:
        return np.dtype(np.uint8)
    if dtype not in STORAGE:
        raise ValueError(f"{dtype} is not one of {', '.join(STORAGE)}")
    return STORAGE[dtype]


def _flat(bits: Array, dtype: str) -> Array:
    if bits.dtype != _storage(dtype):
        raise ValueError(f"{dtype} is stored as {_storage(dtype)}, not as {bits.dtype}")
    return bits.reshape(-1)


def _words(bits: Array) -> Array:
    """A view of the same memory as unsigned integers."""
    return bits.view(np.dtype(f"u{bits.dtype.itemsize}"))


def _counted(
    pieces: Sequence[Array], dtypes: Sequence[str], weights: Sequence[float]
) -> list[tuple[Array, str, float]]:
    """The checked inputs whose weight is not 0."""
    if not len(pieces) == len(dtypes) == len(weights):
        raise ValueError(f"{len(pieces)} pieces, {len(dtypes)} dtypes, {len(weights)} weights")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"a weight is not finite: {list(weights)}")
    if len({piece.shape for piece in pieces}) > 1:
        raise ValueError(f"the shapes differ: {[piece.shape for piece in pieces]}")
    counted = [
        (piece, dtype, float(weight))
        for piece, dtype, weight in zip(pieces, dtypes, weights, strict=True)
        if weight != 0
    ]
    if not counted:
        raise ValueError("all weights are 0")
    return counted


def _sum_to_one(weights: Sequence[float]) -> bool:
    """Whether the weights sum to 1 up to the rounding of each."""
    return abs(math.fsum(weights) - 1.0) <= len(weights) * 2.0**-53


def _widen_into(
    bits: Array, dtype: str, values: npt.NDArray[np.float64], scratch: _Scratch
) -> None:
    if dtype in EIGHT_BITS:
        np.take(EIGHT_BITS[dtype], bits, out=values)
    else:
        values[...] = _bf16_singles(bits, scratch.singles) if dtype == "BF16" else bits


def _bf16_singles(bits: Array, memory: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """bfloat16 bits as float32: a bfloat16 is the upper half of a float32."""
    singles = memory[: bits.size]
    words = _words(singles)
    words[...] = bits
    words <<= np.uint32(16)
    return singles


def _sum_in_float64(
    parts: Sequence[Array], dtypes: Sequence[str], weights: Sequence[float], scratch: _Scratch
) -> npt.NDArray[np.float64]:
    total, term = scratch.total[: parts[0].size], scratch.term[: parts[0].size]
    _widen_into(parts[0], dtypes[0], total, scratch)
    total *= weights[0]  # not 0 + w * x, which would lose the sign of a zero
    for part, dtype, weight in zip(parts[1:], dtypes[1:], weights[1:], strict=True):
        _widen_into(part, dtype, term, scratch)
        term *= weight
        total += term
    return total


def _narrow_into(
    values: npt.NDArray[np.float64], dtype: str, result: Array, scratch: _Scratch
) -> None:
    if dtype == "BF16":
        _narrow_to_bf16(values, result, scratch)
    else:
        result[...] = values  # NumPy rounds float64 once for each of its own floats


def _narrow_to_bf16(values: npt.NDArray[np.float64], result: Array, scratch: _Scratch) -> None:
    """Round float64 to bfloat16 in one step.

    Going through float32 would round twice: 1 + 2^-8 + 2^-40 lies just above the midpoint of two
    bfloat16 numbers, becomes that midpoint in float32, and the tie goes the wrong way. So the
    significand is rounded to bfloat16's 8 bits in integer arithmetic on the float64 (a carry into
    the exponent is correct); the result then is exact in float32 or overflows as it should.
    Subnormal results, which have fewer bits, and NaNs are handled separately.
    """
    size = values.size
    rounded, singles = scratch.term[:size], scratch.singles[:size]
    words, bits = _words(rounded), _words(values)
    one = np.uint64(1)
    np.right_shift(bits, _DROPPED, out=words)
    words &= one  # a tie goes up only if the last kept bit is 1
    words += bits
    words += (one << (_DROPPED - one)) - one
    words &= ~((one << _DROPPED) - one)
    singles[...] = rounded
    np.right_shift(_words(singles), 16, out=result, casting="unsafe")
    # One comparison finds the special cases: results up to the smallest normal number, 0x0080, and
    # from infinity on, 0x7F80. There are few, so they are processed separately.
    magnitude = np.bitwise_and(result, np.uint16(0x7FFF), out=scratch.halves[:size])
    magnitude -= np.uint16(0x0081)
    (rare,) = np.nonzero(magnitude >= 0x7F80 - 0x0081)
    apart = rare[~(np.abs(values[rare]) >= _BF16_NORMAL)]
    result[apart] = _narrow_small_to_bf16(values[apart])


def _narrow_small_to_bf16(values: npt.NDArray[np.float64]) -> Array:
    """Values below bfloat16's normal range, and NaNs, as bfloat16 bits.

    The bits of a bfloat16 up to 2^-126 count its multiples of 2^-133.
    """
    bits = np.rint(np.abs(values) * 2.0**133).astype(np.uint16)
    bits[np.isnan(values)] = 0x7FC0
    bits[np.signbit(values)] |= 0x8000
    return bits


def _float32_suffices(dtypes: Sequence[str], weights: Sequence[float]) -> bool:
    """Whether a float32 sum, rounded to bfloat16, is the exact sum rounded once.

    It is for one or two bfloat16 inputs times powers of two. The products are exact. If float32
    cannot hold their sum s, of exponent e, then the smaller product, 8 bits wide, has bits below
    2^(e-23), hence is smaller than 2^(e-15): s lies that near to the larger one, a bfloat16
    number, and farther from every middle between two of those, 2^(e-8) away. So rounding s to
    float32 first cannot move it onto or across a middle. (2^-16 keeps subnormal products exact;
    1 keeps them from overflowing.)
    """
    return len(weights) <= 2 and all(
        dtype == "BF16" and abs(math.frexp(weight)[0]) == 0.5 and 2.0**-16 <= abs(weight) <= 1.0
        for dtype, weight in zip(dtypes, weights, strict=True)
    )


def _sum_in_float32(
    parts: Sequence[Array], weights: Sequence[float], result: Array, scratch: _Scratch
) -> npt.NDArray[np.float32]:
    """The bfloat16 sum where float32 is exact enough, in half the time; returns it unrounded."""
    total = _bf16_singles(parts[0], scratch.singles)
    total *= np.float32(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        term = _bf16_singles(part, scratch.singles_term)
        term *= np.float32(weight)
        total += term
    # A NaN, of bfloat16 bits or from inf - inf, has an empty lower half: no carry can reach it.
    bits, rounded = _words(total), _words(scratch.singles_term[: total.size])
    np.right_shift(bits, 16, out=rounded)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    np.right_shift(rounded, 16, out=result, casting="unsafe")
    return total


def _float32_mostly_suffices(dtypes: Sequence[str], weights: Sequence[float]) -> bool:
    """Whether `_average_mostly_in_float32` may be used: a few bfloat16 inputs, weights above 0."""
    return len(weights) <= _MOST_INPUTS and all(
        dtype == "BF16" and 2.0**-16 <= weight <= 1.0
        for dtype, weight in zip(dtypes, weights, strict=True)
    )


def _average_mostly_in_float32(
    parts: Sequence[Array],
    weights: Sequence[float],
    result: Array,
    scratch: _Scratch,
    keeps_equal: bool,
) -> bool:
    """The bfloat16 average by float32 where that is certain, by float64 elsewhere.

    If all n inputs have one sign, then weights, products and sums rounded to float32 leave an error
    of at most n + 1 units in the last place of the float32 sum, so it rounds to the same bfloat16
    as the float64 sum unless it lies that near to the middle of two of them. What does, inputs of
    different signs (a small difference of large numbers), results near the ends of the range and
    NaNs are computed again in float64.

    Returns:
        Whether the block was done; False, with `result` undefined, if most of it needs float64.
    """
    size = result.size
    total = _bf16_singles(parts[0], scratch.singles)
    total *= np.float32(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        term = _bf16_singles(part, scratch.singles_term)
        term *= np.float32(weight)
        total += term
    bits = _words(total)
    bits += np.uint32(0x8000)  # no ties: they are in the middle
    np.right_shift(bits, 16, out=result, casting="unsafe")
    work, doubtful = scratch.halves[:size], scratch.flags[:size]
    bits <<= np.uint32(16)
    bits += np.uint32(_MARGIN << 16)
    np.less(bits, np.uint32(2 * _MARGIN << 16), out=doubtful)
    for part in parts[1:]:
        np.bitwise_xor(part, parts[0], out=work)
        doubtful |= work >= 0x8000
    np.bitwise_and(result, np.uint16(0x7FFF), out=work)
    work -= np.uint16(_SAFE_LOW)
    doubtful |= work >= 0x7F00 - _SAFE_LOW
    (places,) = np.nonzero(doubtful)
    if 8 * places.size > size:
        return False
    if places.size:
        few = [part[places] for part in parts]
        exact = _sum_in_float64(few, ["BF16"] * len(few), weights, scratch)
        rounded = np.empty(places.size, np.uint16)
        _narrow_to_bf16(exact, rounded, scratch)
        if keeps_equal:
            _keep_equal(few, "BF16", rounded)
        result[places] = rounded
    return True


def _average_near(a: Array, b: Array, weights: Sequence[float], result: Array) -> int:
    """The average of two bfloat16 inputs that are mostly near one another, by a table.

    Float64 products, sums and roundings scale exactly with powers of two. So if a and b have one
    sign and are d numbers apart, by how many numbers their average differs from b depends on d and
    on the significand of b alone. `_near_table` has the answers; what it does not cover (other
    signs, larger distances, the ends of the range, NaNs) is computed in float64.

    Returns:
        How many elements were done; fewer than all if too many of what follows are far apart.
    """
    table = _near_table(*weights)
    distance, magnitude = np.empty(_NEAR_BLOCK, np.uint16), np.empty(_NEAR_BLOCK, np.uint16)
    places = np.empty(_NEAR_BLOCK, np.intp)
    far = np.empty(min(_NEAR_REGION, result.size), np.bool_)
    for start in range(0, result.size, _NEAR_REGION):
        stop = min(start + _NEAR_REGION, result.size)
        for begin in range(start, stop, _NEAR_BLOCK):
            block = slice(begin, min(begin + _NEAR_BLOCK, stop))
            size = block.stop - begin
            flags = far[begin - start : begin - start + size]
            apart, work, index = distance[:size], magnitude[:size], places[:size]
            np.subtract(a[block], b[block], out=apart)
            apart += np.uint16(_NEAR)
            np.greater(apart, np.uint16(2 * _NEAR), out=flags)
            np.bitwise_and(b[block], np.uint16(0x7FFF), out=work)
            work -= np.uint16(_NEAR_LOW)
            if work.max() >= _NEAR_HIGH - _NEAR_LOW:
                flags |= work >= _NEAR_HIGH - _NEAR_LOW
            apart <<= np.uint16(7)
            np.bitwise_and(b[block], np.uint16(0x7F), out=work)
            apart |= work
            index[...] = apart
            np.take(table, index, out=result[block], mode="clip")
            result[block] += b[block]
        if 8 * np.count_nonzero(far[: stop - start]) > stop - start:
            return start
        (few,) = np.nonzero(far[: stop - start])
        few += start
        parts = [a[few], b[few]]
        exact = np.empty(few.size, np.uint16)
        scratch = _Scratch(few.size)
        with np.errstate(all="ignore"):
            for block in _blocks(few.size):
                pieces = [part[block] for part in parts]
                total = _sum_in_float64(pieces, ["BF16"] * 2, weights, scratch)
                _narrow_to_bf16(total, exact[block], scratch)
        _keep_equal(parts, "BF16", exact)
        result[few] = exact
    return int(result.size)


@cache
def _near_table(first: float, second: float) -> Array:
    """By how many numbers the average of bfloat16 a and b differs from b.

    In rows by how many a is above b, from -255 on, and columns by the low 7 bits of b; flat.
    """
    b = np.broadcast_to(np.arange(128, dtype=np.uint16) + (100 << 7), (2 * _NEAR + 1, 128))
    a = b + np.arange(-_NEAR, _NEAR + 1)[:, None].astype(np.uint16)
    found: Array = (average([a, b], ["BF16"] * 2, (first, second), "BF16") - b).reshape(-1)
    return found


def _keep_equal(parts: Sequence[Array], dtype: str, result: Array) -> None:
    """Where all parts hold the same bits, copy those bits to the result."""
    first = _words(parts[0])
    equal = np.ones(first.size, np.bool_)
    for part in parts[1:]:
        equal &= first == _words(part)
    np.copyto(_words(result), first, where=equal)
