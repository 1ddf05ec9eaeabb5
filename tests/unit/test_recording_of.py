"""Queries and keys from elsewhere become a recording, as if a run had been recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cases import Case
from regard import ALiBi, Causal, Recording, RegardError, Softmax, Weights, attention, record
from unit.test_recording import Calls

pytestmark = pytest.mark.usefixtures("as_users_run_it")

Q, K, V = torch.randn(3, 1, 4, 20, 8, generator=torch.Generator().manual_seed(0))


def test_it_is_what_a_run_would_have_left(tmp_path: Path) -> None:
    call = Case(mask="causal", bias="alibi", normalizer="sink", shape="grouped").build()
    parts = {name: part for name, part in call.parts.items() if name != "dropout"}
    made = Recording.of(call.q, call.k, call.v, to=tmp_path / "made", name="Calls", **parts).layer(0)
    seen = record(Calls(call), (), to=tmp_path / "seen", values=True).layer(0)
    assert (made.mask, made.place) == (seen.mask, seen.place)
    assert torch.equal(made.weights[:], seen.weights[:])
    assert torch.equal(made.lse, seen.lse)
    assert torch.equal(made.out(), seen.out())
    assert made.name == "layer 0"


def test_several_layers_share_what_is_said_once(tmp_path: Path) -> None:
    qs, ks = [Q, Q[:, :2] * 2], [K, K[:, :1]]
    words = {"text": "ab" * 20, "tokens": ["ab"] * 20, "spans": [(2 * i, 2 * i + 2) for i in range(20)]}
    run = Recording.of(qs, ks, mask=Causal(), to=tmp_path / "run", name="mine", **words)
    assert (run.model, run.names, run.exact) == ("mine", ("layer 0", "layer 1"), True)
    assert (run.text, run.tokens) == ("ab" * 20, ("ab",) * 20)
    for layer, q, k in zip(run, qs, ks, strict=True):
        torch.testing.assert_close(layer.weights[:], Weights.of(q, k, mask=Causal())[:])
        assert layer.v is None


def test_a_mask_of_pairs_and_another_dtype(tmp_path: Path) -> None:
    table = torch.rand(20, 20, generator=torch.Generator().manual_seed(1)) < 0.6
    table.fill_diagonal_(True)
    (layer,) = Recording.of(
        Q.double(), K.double(), V.double(), mask=table, bias=ALiBi(heads=4), normalizer=Softmax(), to=tmp_path / "run"
    )
    assert layer.rounding is not None
    assert layer.rounding.greatest < 1e-6
    wanted = attention(Q, K, V, mask=table, bias=ALiBi(heads=4))
    torch.testing.assert_close(layer.out(), wanted)
    assert not layer.weights[0, 0][~table].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"q": [Q, Q]}, r"q, k, v\): got 2, 1 and 1 layers; allowed: as many of each"),
        ({"q": [], "k": []}, "0, 0 and 0 layers"),
        ({"q": Q[0]}, "shape"),
        ({"k": K[..., :4]}, "4"),
        ({"q": Q.long(), "k": K.long()}, "int64"),
        ({"v": V[:, :, :5]}, "5"),
        ({"tokens": ["a"] * 19}, r"tokens=….: got 19 for 20 queries and 20 keys"),
        ({"spans": [(0, 1)]}, "spans without a text"),
        ({"score": lambda q, k: q @ k.mT}, "holds no functions"),
        ({"q": Q[:, :, :0]}, "sizes of at least 1"),
        ({"to": "/nowhere/run"}, "a folder that is there"),
        ({"dtype": torch.int8}, "torch.int8"),
    ],
)
def test_the_silly_mistakes(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"q": Q, "k": K, "to": tmp_path / "run"} | given
    with pytest.raises(RegardError, match=message):
        Recording.of(given.pop("q"), given.pop("k"), given.pop("v", None), **given)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_does_not_hold_the_weights_is_refused(tmp_path: Path) -> None:
    q, k = 1e5 * torch.randn(2, 1, 2, 5, 8)
    with pytest.raises(RegardError, match="float16, in which weights are not finite"):
        Recording.of(q, k, to=tmp_path / "run.safetensors", dtype=torch.float16)
    assert not [*tmp_path.iterdir()]
    assert Recording.of(q, k, to=tmp_path / "run.safetensors", dtype=torch.bfloat16)


def test_what_is_no_number_before_is_not_rounded(tmp_path: Path) -> None:
    """Weights that the run itself has no numbers for are kept as that."""
    q, k = torch.randn(2, 1, 2, 5, 8, dtype=torch.float64)
    q[0, 1, 4] = torch.nan
    run = Recording.of(q, k, to=tmp_path / "run.safetensors")
    assert run.layer(0).weights[0, 1, 4].isnan().all()
    rounding = run.layer(0).rounding
    assert rounding is not None and 0 < rounding.greatest < 1e-6
