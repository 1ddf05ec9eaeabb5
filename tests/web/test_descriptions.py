"""How a layer is described, its heads, and the least of its weights: as one would expect it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regard import Causal, Dot, Recording, Window
from regard.analysis.descriptions import describe_recording
from regard.analysis.head_ranking import CRITERIA, rank_heads
from regard.analysis.map_tiles import half
from regard.analysis.open_recording import OpenRecording
from regard.spec.masks import Mask


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (Window(7, ahead=1 << 30) & Causal(), "Window(back=7, ahead=any) & Causal()"),
        (Window(7, ahead=3), "Window(back=7, ahead=3)"),
    ],
)
def test_windows_without_an_end_and_scales_are_short(tmp_path: Path, mask: Mask, said: str) -> None:
    """transformers' sliding windows have no end ahead, and 1/√d has no short decimal."""
    q, k = torch.randn(2, 1, 2, 5, 32)
    score = Dot(scale=32**-0.5)
    run = Recording.of(q, k, to=tmp_path / "run.safetensors", mask=mask, score=score)
    layer = describe_recording(OpenRecording.of(run))["layers"][0]
    assert (layer["mask"], layer["score"]) == (said, "Dot(scale=0.176777)")


def test_a_head_that_spreads_over_nothing_is_not_told_of() -> None:
    """Of one token there is nothing to tell."""
    assert rank_heads(np.zeros((1, len(CRITERIA)))) == []


def test_a_small_weight_is_not_masked_in_half_precision() -> None:
    """0 is what may not be seen: the thumbnail of a sharp head is dark, not blank."""
    found = half(np.array([0, 1e-30, 2.0**-24, 0.25, 1], np.float32))
    assert found.dtype == np.float16
    assert found.tolist() == [0, 2.0**-24, 2.0**-24, 0.25, 1]
