"""What a layer read, and what it gives: the first and the last step, from numbers that were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch.nn.functional import linear

from regard import Recording, record
from regard.analysis.layers import Layer
from regard.analysis.weight_arithmetic import head_outputs, weight_derivation
from regard.nn import MultiHeadAttention, Transformer

N = 2500


def get(client: TestClient, path: str, **query: object) -> Any:
    response = client.get(path, params={name: str(value) for name, value in query.items()})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def of(run: Recording) -> str:
    return f"/api/recordings/{run.key[:16]}"


@pytest.mark.parametrize("component", [None, 0, 3])
@pytest.mark.parametrize(
    ("layer", "head", "query", "key", "between"),
    [(0, 1, 400, 17, ["norm", "position"]), (1, 3, 77, 60, []), (2, 1, 5, 2400, ["norm"])],
)
def test_q_k_and_v_are_sums_of_products_of_what_was_read(
    client: TestClient,
    run: Recording,
    of: str,
    layer: int,
    head: int,
    query: int,
    key: int,
    between: list[str],
    component: int | None,
) -> None:
    asked = {} if component is None else {"component": component}
    told = get(client, f"{of}/cell/{layer}/{head}/{query}/{key}", **asked)
    one, found = run.layer(layer), told["inputs"]
    read, v = one.inputs, one.v
    assert read is not None
    assert v is not None
    size, group = one.q.shape[3], head // (one.heads // one.k.shape[1])
    largest = int(np.abs(told["products"]).argmax())
    at = largest if component is None else component
    assert found["component"] == at
    for part, by, which, place, vectors in (
        ("q", read.query, head, query, one.q),
        ("k", read.key, group, key, one.k),
        ("v", read.value, group, key, v),
    ):
        mine, row = found[part], which * size + at
        assert mine["component"] == at
        assert mine["x"] == by.x[0, place].double().tolist()
        assert mine["w"] == by.weight[row].double().tolist()
        assert mine["sum"] == sum(a * b for a, b in zip(mine["x"], mine["w"], strict=True))
        assert mine["bias"] == (None if by.bias is None else float(by.bias[row]))
        wanted = linear(by.x[0, place], by.weight, by.bias)[row]
        assert mine["projected"] == pytest.approx(float(wanted), abs=1e-5)
        assert mine["recorded"] == float(vectors[0, which, place, at])
        assert mine["between"] == ([] if part == "v" else between)
        if not mine["between"]:
            assert mine["projected"] == pytest.approx(mine["recorded"], abs=1e-5)
        else:
            assert abs(mine["projected"] - mine["recorded"]) > 1e-3


@pytest.mark.parametrize("component", [None, 0, 15])
@pytest.mark.parametrize(("layer", "query"), [(0, 400), (1, 77), (2, 2499)])
def test_the_output_is_a_sum_over_heads(
    client: TestClient, run: Recording, of: str, layer: int, query: int, component: int | None
) -> None:
    asked = {} if component is None else {"component": component}
    told = get(client, f"{of}/heads/{layer}/{query}", **asked)
    one = run.layer(layer)
    assert run.tokens is not None
    assert one.inputs is not None
    assert told["query"] == {"index": query, "text": run.tokens[query]}
    out = one.out()[0, :, query]
    np.testing.assert_allclose(told["heads"], out.tolist(), rtol=1e-4, atol=1e-5)
    by, found = one.inputs.output, told["projected"]
    whole = linear(out.flatten(), by.weight, by.bias)
    at = int(whole.abs().argmax()) if component is None else component
    assert (found["component"], found["size"]) == (at, 16)
    assert found["bias"] == (None if by.bias is None else float(by.bias[at]))
    assert np.ravel(found["w"]).tolist() == by.weight[at].double().tolist()
    for o, w, part in zip(told["heads"], found["w"], found["parts"], strict=True):
        assert part == sum(a * b for a, b in zip(o, w, strict=True))
    assert found["out"] == pytest.approx(sum(found["parts"]) + (found["bias"] or 0), abs=1e-12)
    assert found["out"] == pytest.approx(float(whole[at]), abs=1e-5)


def test_what_was_not_recorded_is_not_told(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Transformer(50, [MultiHeadAttention(16, 2, value_size=3)])
    tokens = torch.arange(9)[None]
    bare = Layer(record(model, tokens, to=tmp_path / "bare").layer(0))
    assert weight_derivation(bare, 0, 3, 1)["inputs"] is None
    assert head_outputs(bare, 3, None) == {"heads": None, "projected": None}
    values = Layer(record(model, tokens, to=tmp_path / "values", values=True).layer(0))
    told: Any = head_outputs(values, 3, None)
    assert np.shape(told["heads"]) == (2, 3)
    assert told["projected"] is None
    read = Layer(record(model, tokens, to=tmp_path / "read", layer_inputs=True).layer(0))
    found: Any = weight_derivation(read, 1, 3, 1, 7)["inputs"]
    assert (found["q"]["component"], found["v"]["component"]) == (7, 2), "values have three"
    assert found["v"]["recorded"] is None
    assert found["v"]["projected"] == found["v"]["sum"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("cell/0/0/5/5?component=8", 413),
        ("cell/0/0/5/5?component=x", 400),
        ("heads/0/5?component=16", 400),
        ("heads/0/5?component=-1", 400),
        ("heads/0/5?x=1", 400),
        ("heads/3/5", 404),
        ("heads/0/2500", 404),
    ],
)
def test_components_that_are_not_there(client: TestClient, of: str, path: str, status: int) -> None:
    response = client.get(f"{of}/{path}")
    assert response.status_code == status
    assert set(response.json()["error"]) == {"argument", "given", "allowed", "remedy"}
