"""One word in two texts: the numbers are the embedded model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from regard import models, record
from regard.analysis.context_example import TEXT_A, TEXT_B, context_example
from regard.models.tokenizer import START
from web.conftest import refused

PATH = "/api/lesson/context"


def get(client: TestClient, **query: object) -> Any:
    response = client.get(PATH, params={name: str(value) for name, value in query.items()})
    assert response.status_code == 200, response.text
    return response.json()


def states_of(text: str) -> list[Tensor]:
    """What the model holds before its first block and after each, by hooks."""
    embedded, kept = models.load(), list[Tensor]()

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0])

    def after(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        kept.append(out)

    embedded.model.blocks[0].register_forward_pre_hook(before)
    for block in embedded.model.blocks:
        block.register_forward_hook(after)
    with torch.no_grad():
        embedded.model(torch.tensor([[embedded.tokenizer.start, *embedded.encode(text).ids]]))
    return kept


def test_rows_and_states_are_those_of_the_model(client: TestClient, tmp_path: Any) -> None:
    told = get(client)
    embedded = models.load()
    states: list[list[Tensor]] = []
    for name, text in (("a", TEXT_A), ("b", TEXT_B)):
        side = told[name]
        run = record(embedded, text, to=tmp_path / name)
        assert (side["text"], side["tokens"]) == (text, list(run.tokens or ()))
        assert side["tokens"][0] == START
        assert side["tokens"][side["at"]] == told["token"] == " time"
        assert told["token"] not in side["tokens"][side["at"] + 1 :]
        for one in told["heads"]:
            wanted = run.layer(one["layer"]).weights[0, one["head"], side["at"]]
            assert one[name] == pytest.approx(wanted[: side["at"] + 1].tolist(), abs=1e-6)
            assert sum(one[name]) == pytest.approx(1, abs=1e-5)
        states.append([state[0, side["at"]].double() for state in states_of(text)])
    cosines = [float(cosine_similarity(x, y, 0)) for x, y in zip(*states, strict=True)]
    assert told["cosine"] == pytest.approx(cosines, abs=1e-6)
    assert told["cosine"][0] == pytest.approx(1, abs=1e-12), "the same embedding"
    assert told["cosine"][-1] < 0.85
    assert len(told["heads"]) == 30


def test_what_is_apart_is_the_weight_on_other_words(client: TestClient) -> None:
    told = get(client)
    for one in told["heads"]:
        masses: list[dict[str, float]] = []
        for name in ("a", "b"):
            mass = dict.fromkeys(told["a"]["tokens"] + told["b"]["tokens"], 0.0)
            for text, weight in zip(told[name]["tokens"], one[name], strict=False):
                mass[text] += weight
            masses.append(mass)
        shared = sum(min(masses[0][text], masses[1][text]) for text in masses[0])
        assert one["apart"] == pytest.approx(1 - shared, abs=1e-5)
    most = max(told["heads"], key=lambda one: one["apart"])
    assert told["chosen"] == {"layer": most["layer"], "head": most["head"]}
    assert get(client, layer=3, head=1) == {**told, "chosen": {"layer": 3, "head": 1}}


def test_the_same_text_twice_is_the_same(client: TestClient) -> None:
    told = get(client, a="x = value", b="x = value")
    assert told["token"] == " value"
    assert told["cosine"] == pytest.approx([1] * 6, abs=1e-12)
    assert {one["apart"] for one in told["heads"]} == {0}


@pytest.mark.parametrize(
    ("a", "b", "token"),
    [
        ("x = a + b", "y = long_word + b", " b"),
        ("f(number)", "g(number, number)", "number"),
        ("(", "x(", "("),
        ("data data", "the data", " data"),
    ],
)
def test_the_longest_token_that_both_have_is_looked_at(a: str, b: str, token: str) -> None:
    told = context_example(a, b)
    assert told["token"] == token
    for name in ("a", "b"):
        at = told[name]["at"]
        assert token in told[name]["tokens"][at]
        assert token not in told[name]["tokens"][at + 1 :]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"a": "alpha", "b": "zz"}, 400, "share no token"),
        ({"a": "word", "b": "a word"}, 400, "share no token"),
        ({"a": ""}, 400, "0 characters"),
        ({"b": " \n"}, 400, "2 characters"),
        ({"a": "x" * 1001}, 413, "1001 characters"),
        ({"layer": "5", "head": "0"}, 400, "5, 0"),
        ({"layer": "0", "head": "6"}, 400, "0, 6"),
        ({"layer": "1"}, 400, "1, None"),
        ({"head": "x"}, 400, "x"),
        ({"c": "1"}, 400, "unknown"),
    ],
)
def test_what_is_no_context(client: TestClient, query: dict[str, str], status: int, said: str) -> None:
    assert said in refused(client.get(PATH, params=query), status)["given"]
