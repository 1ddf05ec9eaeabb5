"""Have a causal language model of transformers answer, and watch from where it reads.

Only the queries that choose the answer's tokens are observed: the prompt before them is read first, into the
model's cache. So memory grows with the prompt as the cache does, and never with its square.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.analysis.attribution.prompt import Prompt
from regard.analysis.attribution.result import ANSWER, FIRST, QUESTION, TEMPLATE, Attribution
from regard.capture.interceptor import use_regard
from regard.capture.watch import watch
from regard.errors import OptionError
from regard.integrations.pretrained import positions_of
from regard.integrations.tokenized_text import tokenize
from regard.spec.observers import SpanMass


@torch.no_grad()
def attribute(
    model: Any,
    tokenizer: Any,
    contexts: Sequence[str],
    question: str,
    *,
    answer: str | None = None,
    new_tokens: int = 64,
    template: str | None = None,
) -> Attribution:
    """Ask a model about documents, and see to which of them each token of the answer attended.

    Args:
        model, tokenizer: A causal language model of transformers, and its (fast) tokenizer.
        contexts: The documents.
        question: What is asked.
        answer: The answer to look at, read in one pass; by default the model writes its own, greedily.
        new_tokens: How long that may become.
        template: A text with `{documents}` and `{question}`; by default the tokenizer's chat template, or
            `PLAIN` where it has none.

    Returns:
        `Attribution`: the weight of every layer and head on every sentence, for each token of the answer. The
        query that chooses a token is the token before it; its weights are those that are returned.

    Raises:
        OptionError: the model does not write, has no place for so much text, or there is nothing to ask.

    Attention says from where heads read, not what the answer depends on: `leave_one_out` tests that.
    """
    _writes(model)
    prompt = Prompt.of(contexts, question, tokenizer, template)
    ids, parts, answer_ids = _tokens(prompt, answer)
    if answer is None and new_tokens < 1:
        raise OptionError("new_tokens", new_tokens, "1 or more", "Let the model answer something.")
    n = len(ids)
    _fits(model, n, len(answer_ids) if answer is not None else new_tokens)
    most = len(answer_ids) + new_tokens
    mass = SpanMass.by_label([*parts, *[ANSWER] * most])
    whole = torch.tensor([ids + answer_ids], device=model.device)
    with use_regard(model):
        cache = _read(model, whole[:, : n - 1])
        with watch(model, mass) as seen:
            if answer is None:
                answer_ids, logits = _write(model, whole[:, :n], cache, new_tokens)
            else:
                logits = model(input_ids=whole[:, n - 1 : -1], past_key_values=cache, use_cache=True).logits[0]
    tokens = _texts(tokenizer, answer_ids)
    chosen = torch.tensor(answer_ids, device=model.device)
    masses = [layer[mass][0, :, : len(answer_ids)].float() for layer in seen]
    if len({len(each) for each in masses}) > 1:
        raise OptionError(
            "model",
            "layers with different numbers of heads",
            "layers with as many each",
            "Use regard.watch with SpanMass for such a model.",
        )
    columns = ANSWER + 1 + len(prompt.sentences)
    full = [torch.nn.functional.pad(each, (0, columns - each.shape[-1])) for each in masses]
    return Attribution(
        prompt,
        whole[0, :n].cpu(),
        "".join(tokens),
        chosen.cpu(),
        tokens,
        _logprobs(logits, chosen).cpu(),
        seen.names,
        torch.stack(full).cpu(),
    )


@torch.no_grad()
def leave_one_out(model: Any, found: Attribution) -> Float[Tensor, "documents answer"]:
    """How much each token of the answer owes to each document, in nats.

    A document is taken away, and the same answer read again: the number is its tokens' log probability with
    all documents minus that without this one. Above 0 the document made the token more likely. What two
    documents both say costs nothing when one of them goes, so that leaving out one does not show it.
    """
    differences = list[Tensor]()
    for document in range(len(found.prompt.contexts)):
        ids, _, _ = _tokens(found.prompt.without(document), None)
        whole = torch.tensor([[*ids, *found.answer_ids.tolist()]], device=model.device)
        with use_regard(model):
            cache = _read(model, whole[:, : len(ids) - 1])
            logits = model(input_ids=whole[:, len(ids) - 1 : -1], past_key_values=cache, use_cache=True).logits[0]
        differences.append(found.logprobs - _logprobs(logits, whole[0, len(ids) :]).cpu())
    return torch.stack(differences)


def _writes(model: Any) -> None:
    config = model.config
    architectures = getattr(config, "architectures", None) or []
    encoder = bool(architectures) and not any(
        mark in name for name in architectures for mark in ("CausalLM", "LMHead", "ConditionalGeneration")
    )
    encoder_decoder = getattr(config, "is_encoder_decoder", False)
    if encoder_decoder or encoder or not model.can_generate():
        kind = "an encoder with a decoder" if encoder_decoder else "a model that does not write"
        raise OptionError(
            "model",
            f"{type(model).__name__}, {kind}",
            "causal language models",
            "regard.watch, or `regard look`, shows what such a model attends to.",
        )


def _fits(model: Any, prompt: int, answer: int) -> None:
    positions = positions_of(model)
    if positions is not None and prompt + answer > positions:
        raise OptionError(
            "contexts",
            f"a prompt of {prompt:,} tokens and {answer:,} for the answer",
            f"{positions:,} in all, the positions of this model",
            "Give fewer or shorter documents.",
        )


def _tokens(prompt: Prompt, answer: str | None) -> tuple[list[int], list[int], list[int]]:
    """The prompt's ids, the part to which each belongs, and the ids of the answer."""
    text = prompt.text
    if answer is not None:
        if not answer.strip():
            raise OptionError("answer", "an empty text", "an answer", "Leave it out to have the model answer.")
        separator = "" if prompt.marked or text[-1:].isspace() else " "
        text += separator + answer.strip()
    tokens = tokenize(prompt.tokenizer, text, special_tokens=not prompt.marked, split_special_tokens=False)
    ids, spans = tokens.ids, tokens.spans
    while spans and spans[-1][0] == spans[-1][1]:  # what some tokenizers add at the end
        del ids[-1], spans[-1]
    end = len(prompt.text)
    n = next((i for i, (_, stop) in enumerate(spans) if stop > end), len(ids))
    spans_of_parts = [(prompt.question, QUESTION)]
    spans_of_parts += [(span, ANSWER + 1 + i) for i, (_, span) in enumerate(prompt.sentences)]
    spans_of_parts.sort()
    starts = [span.start for span, _ in spans_of_parts]
    parts = list[int]()
    for start, stop in spans[:n]:
        piece = text[start:stop]
        at = start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        (_, last), part = spans_of_parts[max(bisect.bisect_right(starts, at) - 1, 0)]
        inside = starts[0] <= at < last and stop > start
        parts.append(part if inside else TEMPLATE)
    parts[:1] = [FIRST]
    return ids[:n], parts, ids[n:]


def _read(model: Any, ids: Tensor) -> Any:
    """The cache of a prompt, without its logits."""
    if not ids.shape[1]:
        return None
    cache = model.base_model(input_ids=ids, use_cache=True).past_key_values
    if cache is None:
        raise OptionError(
            "model",
            f"{type(model).__name__}, which keeps no cache",
            "causal language models",
            "regard.watch, or `regard look`, shows what such a model attends to.",
        )
    return cache


def _write(model: Any, ids: Tensor, cache: Any, most: int) -> tuple[list[int], Tensor]:
    """A greedy answer, without the token that ends it, and the logits from which each token was chosen."""
    end = model.generation_config.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    generated = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        max_new_tokens=most,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=ends[0] if ends else 0,
    )
    answer = generated.sequences[0, ids.shape[1] :].tolist()
    while answer and answer[-1] in ends:
        answer.pop()
    if not answer:
        raise OptionError(
            "answer",
            "none: the model ends at once",
            "a model that answers",
            "Give the answer to look at: answer=…, or --answer.",
        )
    return answer, torch.cat(generated.logits)[: len(answer)]


def _logprobs(logits: Float[Tensor, "answer vocabulary"], ids: Tensor) -> Float[Tensor, " answer"]:
    return logits.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def _texts(tokenizer: Any, ids: list[int]) -> tuple[str, ...]:
    """What each token adds to the text: tokens of a part of a character nothing, until it is whole."""
    texts, before = list[str](), ""
    for n in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:n], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = so_far if n == len(ids) or not so_far.endswith("�") else before
        texts.append(whole[len(before) :])
        before = whole
    return tuple(texts)
