"""Rotary frequencies for longer sequences, each kind against its paper's formula in plain numbers."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import Tensor

from cases import Draw
from regard.errors import OptionError
from regard.positions import NTK, DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Rotary, Scaling, Sections, YaRN

SIZE = 64
PAIRS = range(SIZE // 2)
EACH = [10_000.0 ** (-2 * i / SIZE) for i in PAIRS]


def angles(scaling: Scaling, *positions: int, keys: tuple[int, ...] | None = None) -> Tensor:
    """The angles of queries at these positions."""
    q, k = torch.zeros(1, 1, len(positions), SIZE), torch.zeros(1, 1, len(keys or ()), SIZE)
    own = torch.tensor(positions, dtype=torch.long)
    if keys is None:
        return Rotary(scaling=scaling).angles(q, q, own)[0]
    return Rotary(scaling=scaling).angles(q, k, own, torch.tensor(keys, dtype=torch.long))[0]


def test_linear_brings_positions_closer() -> None:
    expected = [[position / 8.0 * f for f in EACH] for position in (1, 77)]
    torch.testing.assert_close(angles(Linear(8.0), 1, 77), torch.tensor(expected).double())


def test_ntk_keeps_the_fastest_and_slows_the_slowest_by_its_factor() -> None:
    got = angles(NTK(8.0), 1)[0].tolist()
    base = 10_000.0 * 8.0 ** (SIZE / (SIZE - 2))
    assert got == pytest.approx([base ** (-2 * i / SIZE) for i in PAIRS], rel=1e-12)
    assert got[0] == 1
    assert got[-1] == pytest.approx(EACH[-1] / 8, rel=1e-12)


@pytest.mark.parametrize("longest", [3, 99, 100, 101, 350])
def test_dynamic_ntk_grows_with_the_greatest_position(longest: int) -> None:
    scaling = DynamicNTK(4.0, trained=100)
    length = max(longest + 1, 100)
    base = 10_000.0 * (4.0 * length / 100 - 3.0) ** (SIZE / (SIZE - 2))
    expected = [[p * base ** (-2 * i / SIZE) for i in PAIRS] for p in (2, longest)]
    torch.testing.assert_close(angles(scaling, 2, longest), torch.tensor(expected).double())
    # The length is that of queries and keys together.
    torch.testing.assert_close(angles(scaling, 2, keys=(0, longest)), torch.tensor(expected[:1]).double())


def test_yarn_is_the_papers_ramp() -> None:
    factor, trained = 16.0, 4096
    turns = [trained * f / (2 * math.pi) for f in EACH]
    # The paper's α and β are turns; its code takes the pairs where they are reached, whole and outwards.
    low = max(i for i in PAIRS if turns[i] >= 32)
    high = min(i for i in PAIRS if turns[i] <= 1)
    expected: list[float] = []
    for i, f in enumerate(EACH):
        stays = 1 - min(max((i - low) / (high - low), 0), 1)
        expected.append(f * stays + f / factor * (1 - stays))
    assert 0 < low < high < SIZE // 2 - 1
    got = angles(YaRN(factor, trained), 1)[0].tolist()
    assert got == pytest.approx(expected, rel=1e-12)
    exact = angles(YaRN(factor, trained, ends="exact"), 1)[0].tolist()
    assert exact[low] < got[low + 1] * 2  # between the same neighbours, but not the same
    assert exact != pytest.approx(got, rel=1e-3)


def test_yarn_multiplies_queries_and_keys() -> None:
    assert YaRN(16.0, 4096).magnitude == pytest.approx(0.1 * math.log(16) + 1)
    assert YaRN(0.5, 4096).magnitude == 1
    assert YaRN(16.0, 4096, attention=1.25).magnitude == 1.25
    two = (0.1 * 0.7 * math.log(16) + 1) / (0.1 * 1.3 * math.log(16) + 1)
    assert YaRN(16.0, 4096, mscale=(0.7, 1.3)).magnitude == pytest.approx(two)
    q, k = Draw("yarn").normal(2, 1, 1, 3, SIZE)
    places = torch.arange(3)
    plain = Rotary(scaling=YaRN(16.0, 4096, attention=1.0)).turn(q, k, places)
    grown = Rotary(scaling=YaRN(16.0, 4096, attention=1.25)).turn(q, k, places)
    for one, other in zip(plain, grown, strict=True):
        torch.testing.assert_close(one * 1.25, other)
    # What is not turned is not multiplied, as in transformers.
    partial = Rotary(size=16, scaling=YaRN(16.0, 4096)).turn(q, k, places)[0]
    assert torch.equal(partial[..., 16:], q[..., 16:])


def test_llama3_by_wavelength() -> None:
    factor, trained, low, high = 8.0, 8192, 1.0, 4.0
    kinds = set[str]()
    for f, got in zip(EACH, angles(Llama3(factor, trained, low, high), 1)[0].tolist(), strict=True):
        wave = 2 * math.pi / f
        if wave < trained / high:
            kinds.add("short")
            want = f
        elif wave > trained / low:
            kinds.add("long")
            want = f / factor
        else:
            kinds.add("between")
            smooth = (trained / wave - low) / (high - low)
            want = (1 - smooth) * f / factor + smooth * f
        assert got == pytest.approx(want, rel=1e-12)
    assert kinds == {"short", "between", "long"}


def test_longrope_takes_long_divisors_past_the_trained_length() -> None:
    short, long = [1 + i / 100 for i in PAIRS], [2 + i for i in PAIRS]
    scaling = LongRoPE(tuple(short), tuple(long), trained=50, factor=4.0)
    for last, divisors in ((49, short), (50, long)):
        expected = [[p * f / x for f, x in zip(EACH, divisors, strict=True)] for p in (7, last)]
        torch.testing.assert_close(angles(scaling, 7, last), torch.tensor(expected).double())
        torch.testing.assert_close(angles(scaling, 7, keys=(last,)), torch.tensor(expected[:1]).double())
    assert scaling.magnitude == pytest.approx(math.sqrt(1 + math.log(4) / math.log(50)))
    assert LongRoPE(tuple(short), tuple(long), 50, 4.0, attention=1.5).magnitude == 1.5
    assert LongRoPE(tuple(short), tuple(long), 50).magnitude == 1


def test_lists_of_divisors_become_tuples() -> None:
    scaling = LongRoPE((1.0, 2.0), (3.0, 4.0), 50)
    listed = copy.copy(scaling)
    listed.__dict__.update(short=[1.0, 2.0], long=[3.0, 4.0])
    inspect.unwrap(LongRoPE.__post_init__)(listed)  # past the shape checks of tests
    assert listed == scaling
    assert hash(listed) == hash(scaling)


def test_proportional_turns_the_fastest_pairs_only() -> None:
    got = angles(Proportional(0.25, factor=2.0), 6)[0].tolist()
    assert got == pytest.approx([6 * f / 2 if i < 8 else 0.0 for i, f in enumerate(EACH)])


def test_no_tokens_have_no_length() -> None:
    for scaling in (DynamicNTK(2.0, 8), LongRoPE((1.0,) * 32, (2.0,) * 32, 8)):
        assert angles(scaling).shape == (0, 32)


def test_a_config_of_several_axes() -> None:
    rope = {"type": "mrope", "mrope_section": [8, 12, 12]}
    assert Rotary.from_config(rope, head_size=64, base=1e6) == Rotary(1e6, axes=Sections((8, 12, 12)))
    woven = {"rope_type": "default", "mrope_section": [8, 12, 12], "mrope_interleaved": True}
    assert Rotary.from_config(woven, head_size=64).axes == Sections((8, 12, 12), "woven")


def test_a_config_tells_what_it_does_not() -> None:
    assert Rotary.from_config(None, head_size=64, share=0.25, pairs="interleaved") == Rotary(
        size=16, pairs="interleaved"
    )
    old = {
        "type": "su",
        "short_factor": [1.0] * 32,
        "long_factor": [2.0] * 32,
        "original_max_position_embeddings": 4096,
    }
    expected = LongRoPE((1.0,) * 32, (2.0,) * 32, 4096, 32.0)
    assert Rotary.from_config(old, head_size=64, trained=131_072).scaling == expected


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "ntk"}, "rope['rope_type']: got 'ntk'; allowed: one of default, linear, dynamic"),
        ({"rope_type": "axial"}, "Rotary(base=…, axes=Axial(2))"),
        ({"type": "linear"}, "rope: got no factor for 'linear'; allowed: a dict with factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, "got beta_fast for 'linear'"),
        ({"rope_type": "dynamic", "factor": 2.0}, "Give the config's max_position_embeddings"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "no long_factor for 'longrope'"),
        ({"rope_type": "llama3", "factor": 8.0}, "no low_freq_factor"),
        ({"full": {"rope_type": "default"}, "sliding": {"rope_type": "default"}}, "Write rope['full']"),
    ],
)
def test_what_a_config_may_not_say(rope: dict, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        Rotary.from_config(rope, head_size=64)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear(0.0), "Linear(factor=…): got 0.0; allowed: a number above 0"),
        (lambda: NTK(-1.0), "NTK(factor=…)"),
        (lambda: DynamicNTK(0.5, 8), "a number ≥ 1"),
        (lambda: DynamicNTK(2.0, 0), "DynamicNTK(trained=…)"),
        (lambda: YaRN(2.0, 8, fast=1.0, slow=2.0), "fast ≥ slow > 0"),
        (lambda: YaRN(2.0, 8, ends="both"), "'whole' or 'exact'"),
        (lambda: YaRN(2.0, 8, attention=1.0, mscale=(1.0, 1.0)), "one of them"),
        (lambda: Llama3(slow=4.0, fast=4.0), "fast > slow > 0"),
        (lambda: LongRoPE((1.0,), (1.0, 2.0), 8), "1 and 2 divisors"),
        (lambda: LongRoPE((0.0,), (1.0,), 8), "all above 0"),
        (lambda: Proportional(1.5), "from 0 to 1"),
        (lambda: angles(LongRoPE((1.0,), (1.0,), 8), 1), "1 divisors; allowed: 32"),
        (lambda: NTK(2.0).frequencies(10.0, 2), "at least 4"),
        (lambda: DynamicNTK(2.0, 8).frequencies(10.0, 2), "at least 4"),
    ],
)
def test_a_scaling_says_what_it_takes(make, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert said in str(caught.value)
