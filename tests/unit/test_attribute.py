"""`regard.attribute`: the weight on each document as eager attention has it, and how it is shown."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from rich.console import Console
from torch import Tensor

from largest import Largest
from regard import Attribution, attribute, cli, leave_one_out
from regard.analysis.attribution import CAVEAT, PLAIN, Prompt, sentences
from regard.analysis.attribution.report import AttributionReport
from regard.analysis.attribution.result import among
from regard.cli import attribute_tables
from regard.errors import OptionError
from regard.export import attribution_page
from tinytext import CHAT, byte_level, decoder, encoder, save, word_pieces

tf: Any = transformers

OLD = "The old bridge was built in 1844. It carried carts and, later, a tram."
NEW = "In 1930 the council decided that it was too narrow!\n\nA new bridge was opened in 1932."
NAMES = "<b>Who</b> paid for it? The bank, naïve as it was."
DOCUMENTS = [OLD, NEW, NAMES]
QUESTION = "Who paid for the bridge?"
ANSWER = "The naïve bank 漢 lent it."
SENTENCES = [
    "The old bridge was built in 1844. ",
    "It carried carts and, later, a tram.",
    "In 1930 the council decided that it was too narrow!\n\n",
    "A new bridge was opened in 1932.",
    "<b>Who</b> paid for it? ",
    "The bank, naïve as it was.",
]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def windowed() -> Any:
    """A Mistral whose cache lets go of the oldest keys."""
    torch.manual_seed(3)
    config = tf.MistralConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=400,
        sliding_window=40,
        initializer_range=0.3,
    )
    model = tf.MistralForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


MODELS = {"llama": decoder, "mistral": windowed}


@pytest.fixture(scope="module")
def given() -> Attribution:
    return attribute(decoder(), byte_level(), DOCUMENTS, QUESTION, answer=ANSWER)


@torch.no_grad()
def eager(model: Any, found: Attribution) -> tuple[Tensor, Tensor]:
    """The weights of the queries before each token of the answer, and its log probabilities."""
    model.set_attn_implementation("eager")
    whole = torch.cat((found.prompt_ids, found.answer_ids))[None]
    out = model(whole, output_attentions=True)
    rows = slice(len(found.prompt_ids) - 1, -1)
    weights = torch.stack(out.attentions)[:, 0, :, rows]
    logprobs = out.logits[0, rows].log_softmax(-1)
    return weights, logprobs.gather(-1, found.answer_ids[:, None])[:, 0]


def part_of(prompt: Prompt, tokenizer: Any, count: int) -> list[str]:
    """Of each token of a prompt, the sentence or the other part in which its first letter stands."""
    read = tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=not prompt.marked)
    parts = list[str]()
    for start, stop in read["offset_mapping"][:count]:
        piece = prompt.text[start:stop]
        at = start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        where = [s for s in SENTENCES if prompt.text.index(s) <= at < prompt.text.index(s) + len(s)]
        asked = prompt.text.index(QUESTION)
        in_question = asked <= at < asked + len(QUESTION)
        parts.append(where[0] if where and stop else "question" if in_question else "template")
    return ["first", *parts[1:]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("answer", [None, ANSWER])
@pytest.mark.parametrize("chat", [None, CHAT])
def test_shares_are_sums_of_eager_weights(name: str, answer: str | None, chat: str | None) -> None:
    model, tokenizer = MODELS[name](), byte_level(chat)
    found = attribute(model, tokenizer, DOCUMENTS, QUESTION, answer=answer, new_tokens=9)
    n = len(found.prompt_ids)
    assert model.config._attn_implementation == "sdpa", "as it was"
    assert found.prompt.marked is (chat is not None)
    assert found.prompt_ids.tolist().count(1) == (1 if chat is None else 2), "begun once"
    weights, logprobs = eager(model, found)
    torch.testing.assert_close(found.logprobs, logprobs, atol=1e-4, rtol=1e-4)
    parts = part_of(found.prompt, tokenizer, n)
    assert len(parts) == n

    def mass(wanted: str) -> Tensor:
        return weights[..., [i for i, part in enumerate(parts) if part == wanted]].sum(-1)

    for i, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(found.by_head("sentences")[..., i], mass(sentence), **CLOSE)
    rest = found.by_head("rest").unbind(-1)
    for mine, wanted in zip(rest, ("first", "template", "question"), strict=False):
        torch.testing.assert_close(mine, mass(wanted), **CLOSE)
    torch.testing.assert_close(rest[3], weights[..., n:].sum(-1), **CLOSE)
    assert not rest[4].any(), "no learned sink"
    together = torch.stack([mass(SENTENCES[2]) + mass(SENTENCES[3]), mass(SENTENCES[0]) + mass(SENTENCES[1])])
    torch.testing.assert_close(found.by_head()[..., [1, 0]], together.movedim(0, -1), **CLOSE)


def test_a_generated_answer_is_the_models_own() -> None:
    model, tokenizer = decoder(), byte_level()
    found = attribute(model, tokenizer, DOCUMENTS, QUESTION, new_tokens=9)
    text = model.generate(found.prompt_ids[None], max_new_tokens=9, do_sample=False, pad_token_id=0)
    assert text[0, len(found.prompt_ids) :].tolist() == found.answer_ids.tolist()
    assert found.answer == tokenizer.decode(found.answer_ids)


def test_the_token_that_ends_an_answer_is_left_out() -> None:
    model, tokenizer = decoder(), byte_level()
    found = attribute(model, tokenizer, DOCUMENTS, QUESTION, new_tokens=9)
    ids = found.answer_ids.tolist()
    at = next(i for i in range(1, 9) if ids[i] not in ids[:i])
    model.generation_config.eos_token_id = [ids[at], 2]
    ended = attribute(model, tokenizer, DOCUMENTS, QUESTION, new_tokens=9)
    assert ended.answer_ids.tolist() == ids[:at]
    torch.testing.assert_close(ended.mass, found.mass[:, :, :at], **CLOSE)
    model.generation_config.eos_token_id = ids[0]
    with pytest.raises(OptionError, match=r"answer: got none: the model ends at once.*--answer"):
        attribute(model, tokenizer, DOCUMENTS, QUESTION)


def test_an_answer_that_is_given_is_read_as_it_is(given: Attribution) -> None:
    assert given.answer == " " + ANSWER
    assert "".join(given.tokens) == given.answer
    assert given.tokens.count("") >= 2, "漢 is three bytes"
    said = attribute(decoder(), byte_level(CHAT), DOCUMENTS, QUESTION, answer=ANSWER)
    assert said.answer == ANSWER


def test_leaving_a_document_out_is_asking_again(given: Attribution) -> None:
    model, tokenizer = decoder(), byte_level()
    owed = leave_one_out(model, given)
    answer = given.answer_ids
    for i in range(3):
        kept = [f"Document {j + 1}\n{DOCUMENTS[j]}" for j in range(3) if j != i]
        text = PLAIN.format(documents="\n\n".join(kept), question=QUESTION)
        ids = torch.tensor(tokenizer(text)["input_ids"])
        with torch.no_grad():
            logits = model(torch.cat((ids, answer))[None]).logits[0, len(ids) - 1 : -1]
        alone = logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(owed[i], given.logprobs - alone, atol=1e-4, rtol=1e-4)
    only = attribute(model, tokenizer, [OLD], QUESTION, answer=ANSWER)
    assert leave_one_out(model, only).shape == (1, len(only.tokens))


def test_memory_grows_with_the_answer_and_not_with_the_squared_prompt(small_chunks: None) -> None:
    del small_chunks
    model = decoder(max_position_embeddings=4096)
    documents = [OLD * 20, NEW * 20]
    with Largest() as largest:
        found = attribute(model, byte_level(), documents, QUESTION, answer="The bank.")
    n = len(found.prompt_ids)
    assert n > 800
    assert found.mass.shape[2] == 3
    assert largest.most < n * n / 2


# ---------------------------------------------------------------- the value


def planted() -> Attribution:
    """Two layers of two heads, two tokens: of head 1.0 document 2 gets all, of the others a bit."""
    prompt = Prompt.of(["One. Two.", "Three."], "Which?", tokenizer=None)
    mass = torch.zeros(2, 2, 2, 7)
    mass[..., 0], mass[..., 4], mass[..., 6] = 0.5, 0.1, 0.4  # the first token, "One. ", "Three."
    mass[1, 0], mass[1, 0, :, 6] = 0, 1
    mass[0, 0, 1] = torch.tensor([0, 0, 0, 0, 0.2, 0.3, 0.1])  # 0.4 to a learned sink
    ids = torch.arange(2)
    return Attribution(prompt, ids, "a b", ids, ("a", " b"), torch.tensor([-1.0, -2.0]), ("x", "y"), mass)


def test_shares_over_heads() -> None:
    found = planted()
    assert [number for number, _ in found.sentences] == [0, 0, 1]
    documents = found.shares("documents")
    torch.testing.assert_close(documents, torch.tensor([[0.075, 0.55], [0.175, 0.475]]))
    torch.testing.assert_close(found.shares(over="max"), torch.tensor([[0.1, 1.0], [0.5, 1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.shares(layer=1), torch.tensor([[0.05, 0.7]] * 2))
    torch.testing.assert_close(found.shares(layer=1, head=0), torch.tensor([[0.0, 1.0]] * 2))
    torch.testing.assert_close(found.shares("together"), documents.sum(-1, keepdim=True))
    torch.testing.assert_close(found.by_layer(), torch.tensor([[0.2, 0.325], [0.05, 0.7]]), atol=1e-6, rtol=0)
    sink = found.shares("rest")[:, 4]
    torch.testing.assert_close(sink, torch.tensor([0.0, 0.1]))
    assert found.strongest_heads(1, 2) == [(1, 0, 1.0), (0, 1, pytest.approx(0.4))]
    torch.testing.assert_close(among(documents).sum(-1), torch.ones(2))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layer": 2}, r"layer: got 2; allowed: 0 to 1"),
        ({"head": -1}, r"head: got -1; allowed: 0 to 1"),
        ({"over": "sum"}, r"over: got 'sum'; allowed: 'mean' or 'max'"),
        ({"of": "words"}, r"of: got 'words'"),
    ]
    for how, said in wrong:
        with pytest.raises(OptionError, match=said):
            found.shares(**how)


# ---------------------------------------------------------------- the prompt


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three!", ["One. ", "Two? ", "Three!"]),
        ("It cost 3.50 francs. e.g. that.", ["It cost 3.50 francs. e.g. that."]),
        ("Mr. J. Smith paid. So did Dr. Who.", ["Mr. J. Smith paid. ", "So did Dr. Who."]),
        ("He said “No.” Then he left.", ["He said “No.” ", "Then he left."]),
        ("One line\nis wrapped.\n\nA new one", ["One line\nis wrapped.\n\n", "A new one"]),
        ("Items:\n- one\n- two\n1. three", ["Items:\n", "- one\n", "- two\n", "1. three"]),
        ("雨が降る。帰ろう！", ["雨が降る。", "帰ろう！"]),
        ("  ", ["  "]),
        ("End.\n\n", ["End.\n\n"]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert [text[start:stop] for start, stop in sentences(text)] == parts


def test_a_prompt_knows_where_its_parts_stand() -> None:
    prompt = Prompt.of([OLD + "\n", NEW], QUESTION, None, "Q: {question} {braces}\n{documents}\nA:")
    said = f"Q: {QUESTION} {{braces}}\nDocument 1\n{OLD}\n\nDocument 2\n{NEW}\nA:"
    assert prompt.text == said
    assert [prompt.text[a:b] for a, b in prompt.documents] == [OLD, NEW]
    assert prompt.text[slice(*prompt.question)] == QUESTION
    alone = prompt.without(0)
    assert alone.text == f"Q: {QUESTION} {{braces}}\nDocument 2\n{NEW}\nA:"
    assert [alone.text[a:b] for a, b in alone.documents] == ["", NEW]


class Changing:
    """A tokenizer whose chat template changes what is said."""

    chat_template = "…"

    def apply_chat_template(self, said: list[dict[str, str]], **_: Any) -> str:
        return said[0]["content"].upper()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"contexts": []}, "contexts: got no documents"),
        ({"contexts": ["a", " "]}, "contexts: got an empty document"),
        ({"question": " "}, "question: got an empty text"),
        ({"template": "{documents}"}, r"template: got '\{documents\}'.*each once"),
        ({"template": "{documents}{documents}{question}"}, "each once"),
        ({"tokenizer": Changing()}, "template: got a chat template that changes the message"),
    ],
)
def test_what_cannot_be_asked(how: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Prompt.of(**{"contexts": [OLD], "question": QUESTION, "tokenizer": None} | how)


def test_models_that_do_not_answer() -> None:
    tokenizer = byte_level()
    bert = tf.BertLMHeadModel(
        tf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=400)
    )
    t5 = tf.T5ForConditionalGeneration(
        tf.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=400)
    )
    for model, said in (
        (bert, "BertLMHeadModel, which keeps no cache"),
        (encoder(), "BertModel, a model that does not write"),
        (t5, "T5ForConditionalGeneration, an encoder with a decoder"),
    ):
        with pytest.raises(OptionError, match=said):
            attribute(model, tokenizer, DOCUMENTS, QUESTION, answer=ANSWER)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"answer": " "}, "answer: got an empty text"),
        ({"new_tokens": 0}, "new_tokens: got 0"),
        ({"new_tokens": 200}, r"contexts: got a prompt of \d+ tokens and 200 for.*allowed: 256 in all"),
    ]
    for how, said in wrong:
        with pytest.raises(OptionError, match=said):
            attribute(decoder(), tokenizer, DOCUMENTS, QUESTION, **how)


# ---------------------------------------------------------------- how it is shown


def report_of(found: Attribution, **how: Any) -> AttributionReport:
    names = tuple(f"<d{i}>.txt" for i in range(len(found.prompt.contexts)))
    plain: dict[str, Any] = {"layer": None, "head": None, "over": "mean", "left_out": None}
    return AttributionReport("tiny <model>", names, found, False, **plain | how)


def printed(what: AttributionReport, width: int = 120, **how: Any) -> str:
    out = io.StringIO()
    attribute_tables.show(Console(file=out, width=width, **how), what)
    return out.getvalue()


def test_terminal_tells_shares_and_their_limits() -> None:
    owed = torch.tensor([[0.25, 0.5], [-1.0, 0.75]]).double().numpy()
    text = printed(report_of(planted(), left_out=owed))
    lines = text.splitlines()
    documents = next(line for line in lines if line.startswith("documents"))
    assert "63.7%" in documents
    assert any(re.match(r"first token +36.2% .*where heads rest|first token +31.2%", x) for x in lines)
    first, second = (next(x for x in lines if f"<d{i}>.txt" in x) for i in (0, 1))
    assert re.search(r"12.5% +20% .*−0.75 +0.0 30%, 0.1 10%, 1.1 10%", first)
    assert re.search(r"51.[23]% +80% .*\+0.25 +1.0 100%, 0.1 40%, 1.1 40%", second)
    assert re.search(r"^a +6[23]% +12% +88% +Three\. *$", text, re.MULTILINE)
    assert " ".join(CAVEAT.split()) in " ".join(text.split())
    assert "left out: the change" in text
    assert "left out: the change" not in printed(report_of(planted()))
    greatest = printed(report_of(planted(), over="max", layer=1))
    assert "the greatest of the 2 heads of layer 1" in greatest
    assert "need not sum to 100%" in greatest


@pytest.mark.parametrize("width", [40, 90])
def test_terminal_colours_the_answer_by_document(given: Attribution, width: int) -> None:
    text = printed(report_of(given), width, color_system="truecolor", force_terminal=True)
    assert "\x1b[1;36m" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert " ".join(given.answer.split()) in " ".join(plain.split())
    assert "漢" in plain


class Page(HTMLParser):
    """A page taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside in ("td", "th", "code") and self.rows:
            self.rows[-1][-1] += data.strip()


def test_page_holds_all_of_it_and_asks_nothing(given: Attribution) -> None:
    model = decoder()
    owed = leave_one_out(model, given).double().numpy()
    what = report_of(given, left_out=owed)
    text = attribution_page.page(what)
    page = Page(text)
    assert text.count("<script") == 2
    assert "<model>" not in text
    assert "<d1>" not in text
    assert "<b>Who" not in text
    assert "default-src 'none'" in text
    assert all("src" not in has and (has.get("href") or "#")[0] in "#d" for _, has in page.tags)
    assert all(word in text for word in (CAVEAT[:60], "漢", "--check"))
    data = json.loads(page.scripts[0])
    assert data["size"] == [2, 4, len(given.tokens), 6]
    assert data["documents"] == [0, 0, 1, 1, 2, 2]
    shares = given.shares().mean(0)
    for i in range(3):
        name, of_all, part, left_out, heads = page.rows[1 + i]
        assert name == f"{i + 1} <d{i}>.txt"
        assert of_all == f"{shares[i]:.1%}"
        assert part == f"{shares[i] / shares.sum():.0%}"
        assert left_out == f"{-owed[i].sum():+.2f}".replace("-", "−")
        assert heads == what.strongest(i)
    tokens = [row for row in page.rows if len(row) == 6]
    assert len(tokens) == 1 + len(given.tokens)
    assert tokens[1][1] == f"{given.shares()[0].sum():.0%}"
    assert sum(tag == "button" for tag, _ in page.tags) == len(given.tokens) + 1


def test_numbers_come_back() -> None:
    values = np.array([0.0, 1e-8, 3e-4, 0.5, 1.0, 20_000.0])
    packed = zlib.decompress(base64.b64decode(attribution_page.numbers(values)))
    codes = np.frombuffer(packed, "<u2").astype(float)
    back = np.where(codes > 0, 10 ** ((codes - 1) / 65534 * 15 - 9), 0)
    np.testing.assert_allclose(back, values, rtol=3e-4)


def test_a_page_of_many_heads_has_each_layers_mean(given: Attribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution_page, "MOST_SHARES", 100)
    data = json.loads(Page(attribution_page.page(report_of(given, head=1))).scripts[0])
    assert data["size"][:2] == [2, 1]
    assert data["head"] == ""


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "tiny-llama", decoder(), byte_level(CHAT))


def test_the_command_answers_and_writes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, out = tmp_path / "old.txt", tmp_path / "page.html"
    old.write_text(OLD)
    capsys.readouterr()
    code = cli.main(
        [
            "attribute",
            "--model",
            str(folder),
            "--context",
            str(old),
            NEW,
            "--question",
            QUESTION,
            "--new-tokens",
            "5",
            "--check",
            "--out",
            str(out),
        ]
    )
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert "1 old.txt" in said.out
    assert "2 text 2" in said.out
    assert "written by the model, greedily; 5 tokens" in said.out
    assert "left out: the change" in " ".join(said.out.split())
    assert str(out) in said.out.replace("\n", "")
    page = out.read_text("utf-8")
    assert "left out, nats" in page
    assert "$" not in page.split("<script")[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--context", "none.txt"], "--context: got none.txt, which is not there"),
        (["--layer", "2"], "layer: got 2; allowed: 0 to 1"),
        (["--answer", "x", "--new-tokens", "3"], "--new-tokens: got 3; allowed: without --answer"),
        (["--new-tokens", "0"], "new_tokens: got 0"),
        (["--template", "hello"], "template: got 'hello'"),
        (["--out", "none/page.html"], "in a folder that is not there"),
    ],
)
def test_faults_are_one_line(folder: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    base = ["attribute", "--model", str(folder), "--context", OLD, "--question", QUESTION]
    answer = [] if {"--answer", "--new-tokens"} & {*more} else ["--answer", "The bank."]
    assert cli.main([*base, *answer, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("regard attribute: ")
    assert said in error
    assert error.count("\n") == 1


def test_encoders_are_refused_and_help_says_the_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = save(tmp_path / "bert", encoder(), word_pieces())
    capsys.readouterr()
    assert cli.main(["attribute", "--model", str(bert), "--context", OLD, "--question", "Who?"]) == 2
    assert "a model that does not write; allowed: causal language models" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        cli.main(["attribute", "--help"])
    assert " ".join(CAVEAT.split()) in " ".join(capsys.readouterr().out.split())


def test_a_learned_sink_is_told(given: Attribution) -> None:
    assert "learned sink" in report_of(planted()).rest
    assert "learned sink" not in report_of(given).rest
    assert report_of(replace(given, mass=given.mass / 2)).rest["learned sink"] == pytest.approx(0.5)
