"""maths/quantization: rounding in the mean, codes by their definition, bits that look random."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from salsa_cli.data import stable_seed
from salsa_cli.maths import quantization as q

CPU = torch.device("cpu")


def bits(seed: int, count: int, start: int = 0) -> Tensor:
    return q.random_bits(seed, start, count, CPU)


def lowbias32(index: int, seed: int) -> int:
    """The hash in unbounded integers."""
    x = (index * (seed >> 32 | 1) + seed) % 2**32
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5, 2**63 - 1, 0xDEADBEEFCAFE])
def test_bits_are_those_of_the_hash(seed: int) -> None:
    start = 2**31 - 3  # the index, too, passes the end of int32
    found = [number % 2**32 for number in bits(seed, 6, start).tolist()]
    assert found == [lowbias32(start + n, seed % 2**64) for n in range(6)]


def test_bits_of_a_part_are_those_of_the_whole() -> None:
    assert torch.equal(bits(3, 100)[40:70], bits(3, 30, start=40))


def test_each_bit_is_set_half_the_time_and_seeds_do_not_agree() -> None:
    """Of 2^18 draws, shares stray by a standard error of .001; 6 of them is never."""
    count, error = 2**18, 0.5 / 2**9
    one, other = (bits(seed, count) for seed in (11, 12))
    places = torch.arange(32)
    for found in (one, one ^ other, one ^ bits(11 + 2**40, count), one ^ one.roll(1)):
        share = ((found[:, None] >> places) & 1).double().mean(0)
        assert (share - 0.5).abs().max() < 6 * error


def test_rounding_gives_a_neighbour_and_the_value_in_the_mean() -> None:
    values = torch.tensor([0.02, -0.02, 1 + 2**-9, 3e-38, -1e-41, 1e20, 0.1 + 1e-4])
    draws = 2**16
    # All 2^16 low halves once: the mean is then exact but for what lies below the halves' last bit.
    every = torch.arange(draws, dtype=torch.int32)
    found = q.round_stochastically(values.repeat(draws, 1), every[:, None].expand(-1, 7))
    assert found.dtype == torch.bfloat16
    exact = values.double()
    down = values.numpy().view(np.uint32) & np.uint32(0xFFFF0000)
    near, far = (
        torch.from_numpy(kept.view(np.float32).astype(np.float64))
        for kept in (down, down + np.uint32(0x10000))
    )
    wide = found.double()
    assert ((wide == near) | (wide == far)).all()
    assert (wide.mean(0) - exact).abs().div(exact.abs()).max() < 1e-12


def test_rounding_is_unbiased_at_every_exponent() -> None:
    """From the subnormals to the largest numbers, and across each power of two.

    With L the low half of a float32's bits, exactly the L largest of the 2^16 draws go up, so the
    mean is down + L / 2^16 * (up - down), which is the value wherever both neighbours are finite.
    """
    tops = np.arange(0, 0x7F7F, dtype=np.uint32)  # the largest has no finite neighbour above
    tops = tops[(tops & 0x7F == 0) | (tops & 0x7F == 0x7F) | (tops & 0x7F == 0x2A)]
    lows = np.array([1, 2, 0x7FFF, 0x8000, 0xFFFF], dtype=np.uint32)
    for sign in (np.uint32(0), np.uint32(1 << 31)):
        bits_of = (sign | tops[:, None] << np.uint32(16) | lows).ravel()
        kept = (sign | tops[:, None] << np.uint32(16)).repeat(len(lows), 1).ravel()
        values = torch.from_numpy(bits_of.view(np.float32))
        low = torch.from_numpy(np.tile(lows, len(tops)).astype(np.int32))
        down, up = (one.view(np.float32) for one in (kept, kept + np.uint32(0x10000)))
        for draw, expected in ((0xFFFF - low, down), (0x10000 - low, up)):
            found = q.round_stochastically(values, draw)
            assert torch.equal(found.view(torch.int16), _bits_of(expected))
        near, far = down.astype(np.float64), up.astype(np.float64)
        mean = near + low.numpy() / 2**16 * (far - near)
        assert (mean == values.double().numpy()).all()


def _bits_of(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy((numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.int16))


def test_what_bfloat16_has_stays() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-120, 3.0e38]).bfloat16().float()
    ones = torch.full((6,), -1, dtype=torch.int32)
    found = q.round_stochastically(values, ones)
    assert torch.equal(found.view(torch.int16), values.bfloat16().view(torch.int16))


def test_the_high_half_of_the_bits_does_not_count() -> None:
    values = torch.rand(1000)
    drawn = bits(1, 1000)
    low = drawn & 0xFFFF
    assert torch.equal(q.round_stochastically(values, drawn), q.round_stochastically(values, low))


def levels(top: int) -> list[float]:
    """What the codes stand for, by the definition."""
    return [0.0] + [2 ** ((k - top) / 8) for k in range(1, top + 1)]


def test_codes_of_signed_values_by_hand() -> None:
    scale = 3.0
    steps = torch.tensor([0, -1, -8, -126, -126.6, -400], dtype=torch.float64)
    values = (scale * 2 ** (steps / 8)).float() * torch.tensor([1, -1, 1, -1, 1, 1])
    codes, scales = q.encode_signed(torch.cat([values, torch.zeros(2)])[None])
    assert scales.tolist() == [3.0]
    assert codes.tolist() == [[127, 128 + 126, 119, 128 + 1, 0, 0, 0, 0]]
    assert codes.dtype == torch.uint8
    found = q.decode_signed(codes, scales)[0].tolist()
    expected = [3.0, -3 * 2 ** (-1 / 8), 1.5, -3 * 2 ** (-126 / 8), 0, 0, 0, 0]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_signed_value_comes_back_within_half_a_level() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** (-8 * torch.rand(64, 256, generator=generator))
    values = torch.randn(64, 256, generator=generator) * sizes
    codes, scales = q.encode_signed(values)
    found = q.decode_signed(codes, scales)
    large = values.abs() > scales[:, None] * 2**-15
    # Half a level, as a logarithm, and a little for float32's logarithm.
    assert (found / values)[large].log2().abs().max() <= 1 / 16 + 1e-5
    assert (found - values)[~large].abs().max() <= 2**-15 * float(scales.max())


def test_an_unsigned_value_goes_to_a_neighbour_and_to_itself_in_the_mean() -> None:
    """Over all 2^16 high halves of the bits; the largest of the block keeps its size."""
    top = 0.7
    shares = torch.tensor([1.0, 0.999, 0.95, 2**-0.125, 0.3, 1e-4, 2.0**-31.7, 0.0])
    draws = 2**16
    every = torch.arange(draws, dtype=torch.int32) << 16
    codes, scales = q.encode_unsigned(
        (top * shares).repeat(draws, 1), every[:, None].expand(-1, len(shares))
    )
    assert scales.unique().tolist() == pytest.approx([top])
    found = q.decode_unsigned(codes, scales).double()
    known = levels(255)
    for place, share in enumerate(shares.tolist()):
        seen = sorted({known[code] for code in codes[:, place].tolist()})
        assert len(seen) <= 2
        # The level itself, where rounding in float32 puts it just below or just above.
        assert seen[0] <= share * (1 + 1e-5) and share * (1 - 1e-5) <= seen[-1]
        mean = float(found[:, place].mean())
        # 2^-16 of a level of 9 %, and float32's rounding of its logarithm.
        assert mean == pytest.approx(top * share, rel=3e-6)


def test_a_small_second_moment_never_becomes_zero() -> None:
    values = torch.tensor([[1.0, 1e-30, 1e-12, 0.0]])
    codes, scales = q.encode_unsigned(values, bits(5, 4)[None])
    found = q.decode_unsigned(codes, scales)[0].tolist()
    assert codes.tolist() == [[255, 1, 1, 0]]
    assert found == pytest.approx([1.0, 2**-31.75, 2**-31.75, 0.0])


def test_blocks_have_scales_of_their_own_and_zeros_stay() -> None:
    values = torch.tensor([[1e-30, 2e-30], [4.0, 1.0], [0.0, 0.0]])
    for codes, scales in (
        q.encode_signed(values),
        q.encode_unsigned(values, bits(0, 6).view(3, 2)),
    ):
        assert scales.tolist() == pytest.approx([2e-30, 4.0, 0.0])
        assert codes[2].tolist() == [0, 0]
    codes, scales = q.encode_signed(values)
    assert q.decode_signed(codes, scales).flatten().tolist() == pytest.approx(
        values.flatten().tolist()
    )


def test_a_mean_that_moves_by_less_than_a_level_still_moves() -> None:
    """A second moment falls by a thousandth a step; to the nearest code it would never fall."""
    codes, scales = q.encode_unsigned(torch.tensor([[1.0] + [0.5] * 4095]), bits(0, 4096)[None])
    for step in range(1, 701):
        held = q.decode_unsigned(codes, scales)
        held[:, 1:] *= 0.999
        codes, scales = q.encode_unsigned(held, bits(stable_seed(step), 4096)[None])
    found = float(q.decode_unsigned(codes, scales)[0, 1:].mean())
    # A value strays by .09 * sqrt(700 * .011), a quarter of itself; the mean of 4,095 by .004.
    assert found == pytest.approx(0.5 * math.exp(700 * math.log(0.999)), rel=0.02)
