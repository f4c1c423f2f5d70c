"""Numbers in fewer bits: stochastic rounding to bfloat16, and 8-bit codes in blocks with a scale.

Random bits are a function of a seed and of a value's index, not of a generator's state: they do not
depend on the device, on the chunks in which a tensor is processed, or on how it is sharded.
"""

from functools import lru_cache

import torch
from torch import Tensor

LEVELS_PER_OCTAVE = 8
"""Codes of successive magnitudes differ by a factor of 2^(1/8): 4.4 % to the nearest at most."""

_RATIO = 2.0 ** (1 / LEVELS_PER_OCTAVE)
_LOW_16 = 0xFFFF


def random_bits(seed: int, start: int, count: int, device: torch.device) -> Tensor:
    """32 random bits for each index from `start` on, `[count]` int32.

    The hash lowbias32 (Wellons, "Prospecting for Hash Functions", 2018) of index * a + b modulo
    2^32, where b is the low half of the seed and a the high half, made odd.

    Args:
        seed: any integer; its low 64 bits count.
    """
    index = torch.arange(count, dtype=torch.int32, device=device).add_(_signed(start))
    bits = index.mul_(_signed(seed >> 32 | 1)).add_(_signed(seed))
    _shift_xor_(bits, 16)
    bits.mul_(0x7FEB352D)
    _shift_xor_(bits, 15)
    bits.mul_(_signed(0x846CA68B))
    _shift_xor_(bits, 16)
    return bits


def round_stochastically(values: Tensor, bits: Tensor) -> Tensor:
    """bfloat16 neighbours of finite float32 `values`, drawn so that their mean is the value.

    A value between two neighbours a and b becomes b with probability (value - a) / (b - a), in
    steps of 2^-16: the low half of a float32's bits, which bfloat16 lacks, is added to 16 random
    bits, and the carry decides. A value that bfloat16 has stays as it is.

    Args:
        bits: int32 of the same shape; the low 16 count.
    """
    raised = values.view(torch.int32) + (bits & _LOW_16)
    return raised.bitwise_and_(~_LOW_16).view(torch.float32).to(torch.bfloat16)


def encode_signed(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of signed values, each rounded to the nearest code.

    The scale is the largest magnitude of a block. A code is a sign and 7 bits: 0 is zero, k > 0 is
    the scale times 2^((k - 127) / 8), down to 2^-15.75 of it.

    Args:
        values: `[N, B]` float32, one block a row.

    Returns:
        `[N, B]` uint8, and `[N]` float32.
    """
    share, scales = _normalised(values.abs())
    level = share.log2_().mul_(LEVELS_PER_OCTAVE).add_(127).round_().clamp_(0, 127)
    return level.to(torch.uint8).bitwise_or_(torch.signbit(values).to(torch.uint8) << 7), scales


def encode_unsigned(values: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of values that are not negative, each rounded stochastically.

    The scale is the largest value of a block. Code 0 is zero, k > 0 is the scale times
    2^((k - 255) / 8), down to 2^-31.75 of it; smaller positive values become that one. Between two
    codes the mean of the draws is the value.

    Args:
        values: `[N, B]` float32, one block a row.
        bits: int32 of the same shape; the high 16 count.

    Returns:
        `[N, B]` uint8, and `[N]` float32.
    """
    share, scales = _normalised(values)
    zero = share == 0
    level = share.log2().mul_(LEVELS_PER_OCTAVE).add_(255).floor_().clamp_(1, 255)
    below = ((level - 255) / LEVELS_PER_OCTAVE).exp2_()
    chance = share.div_(below).sub_(1).div_(_RATIO - 1)
    drawn = (bits >> 16).bitwise_and_(_LOW_16)
    level.add_(drawn < chance.mul_(_LOW_16 + 1)).clamp_(max=255).masked_fill_(zero, 0)
    return level.to(torch.uint8), scales


def decode_signed(codes: Tensor, scales: Tensor) -> Tensor:
    """The values `[N, B]` that `encode_signed` rounded to."""
    return _decoded(codes, scales, _signed_levels(codes.device))


def decode_unsigned(codes: Tensor, scales: Tensor) -> Tensor:
    """The values `[N, B]` that `encode_unsigned` rounded to."""
    return _decoded(codes, scales, _unsigned_levels(codes.device))


def _normalised(values: Tensor) -> tuple[Tensor, Tensor]:
    scales = values.amax(-1)
    # A block of zeros has scale 0; dividing by the smallest normal number leaves its zeros.
    return values / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1), scales


def _decoded(codes: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
    found = levels.index_select(0, codes.flatten().int()).view(codes.shape)
    return found.mul_(scales.unsqueeze(-1))


@lru_cache
def _unsigned_levels(device: torch.device) -> Tensor:
    return _levels(255).to(device)


@lru_cache
def _signed_levels(device: torch.device) -> Tensor:
    positive = _levels(127)
    return torch.cat([positive, -positive]).to(device)


def _levels(top: int) -> Tensor:
    found = ((torch.arange(top + 1.0) - top) / LEVELS_PER_OCTAVE).exp2()
    found[0] = 0
    return found


def _shift_xor_(bits: Tensor, places: int) -> None:
    # Shifts of int32 copy the sign; the mask makes them shifts of unsigned numbers.
    bits.bitwise_xor_((bits >> places).bitwise_and_((1 << (32 - places)) - 1))


def _signed(number: int) -> int:
    """The low 32 bits of an integer as an int32."""
    return (number + 2**31) % 2**32 - 2**31
