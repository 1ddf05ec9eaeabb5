"""Documents and a question as one text, in which the span of each document and sentence is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from regard.errors import OptionError

PLAIN = "{documents}\n\nQuestion: {question}\nAnswer:"
"""The prompt of a model without a chat template."""

_MESSAGE = "{documents}\n\nQuestion: {question}"
_HEADING = "Document {number}\n"


class Span(NamedTuple):
    """Characters of a text: the first, and the one after the last."""

    start: int
    stop: int


# The sign that ends a sentence, what closes after it, and white space; or a line break that ends a block.
_END = re.compile(
    r"[.!?…]+[\"'”’»)\]]*\s+(?=[\"'“‘«(\[]*[^\W_a-z])|[。！？]+[」』”]*\s*|\n\s*\n\s*|\n(?=\s*(?:[-*•]|\d+[.)])\s)"
)
_SHORT = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|No|Nos|Fig|Figs|Eq|Art|vol|pp|ca|al|approx|e\.g|i\.e)|"
    r"(?:^|[\s(.])[A-Z])\.\s+$"
)


def sentences(text: str) -> tuple[Span, ...]:
    """A text cut into sentences, each with the white space after it, so that together they are the text.

    Plain rules: a full stop, question or exclamation mark before white space and anything but a small
    letter, unless it ends an initial or a usual abbreviation; a wide form of these; an empty line; a list's
    next item.

    >>> text = "Dr. Who came in 1963. Did J. Smith stay? It cost 3.50 francs!"
    >>> [text[start:stop] for start, stop in sentences(text)]
    ['Dr. Who came in 1963. ', 'Did J. Smith stay? ', 'It cost 3.50 francs!']
    """
    result, start = list[Span](), 0
    for end in _END.finditer(text):
        if not text[start : end.end()].strip() or _SHORT.search(text[start : end.end()]):
            continue
        result.append(Span(start, end.end()))
        start = end.end()
    if text[start:].strip() or not result:
        result.append(Span(start, len(text)))
    else:
        result[-1] = Span(result[-1].start, len(text))
    return tuple(result)


@dataclass(frozen=True)
class Prompt:
    """Documents and a question, as a model reads them."""

    contexts: tuple[str, ...]
    question_text: str
    template: str | None
    """Where documents and question stand; None for the tokenizer's chat template, or `PLAIN`."""
    text: str
    documents: tuple[Span, ...]
    """Where each document stands; a document that is left out is empty."""
    question: Span
    marked: bool
    """Whether the text contains the special tokens itself, as with a chat template."""
    tokenizer: Any = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        contexts: Sequence[str],
        question: str,
        tokenizer: Any,
        template: str | None = None,
        without: int | None = None,
    ) -> Prompt:
        """Documents and question in a template with `{documents}` and `{question}`, each once.

        Documents are headed by their numbers. If one is left out, the others keep theirs.

        Raises:
            OptionError: nothing to read or to ask, or a template that does not take it.
        """
        contexts = tuple(contexts)
        if not contexts or not all(text.strip() for text in contexts):
            given = "no documents" if not contexts else "an empty document"
            raise OptionError(
                "contexts",
                given,
                "one document or more, each with text in it",
                "Give what the answer is to be read from.",
            )
        if not question.strip():
            raise OptionError("question", "an empty text", "a question", "Ask something of the documents.")
        chat = template is None and getattr(tokenizer, "chat_template", None) is not None
        form = template if template is not None else _MESSAGE if chat else PLAIN
        text, documents, question_span = _filled(form, contexts, question, without)
        offset = 0
        if chat:
            message, text = text, _chat(tokenizer, text)
            offset = text.find(message)
        spans = [Span(start + offset, stop + offset) for start, stop in (*documents, question_span)]
        return cls(contexts, question, template, text, tuple(spans[:-1]), spans[-1], chat, tokenizer)

    def without(self, document: int) -> Prompt:
        """The same without one of the documents."""
        return self.of(self.contexts, self.question_text, self.tokenizer, self.template, document)

    @property
    def sentences(self) -> tuple[tuple[int, Span], ...]:
        """Every sentence: the number of its document, and where it stands in the text."""
        return tuple(
            (number, Span(whole.start + start, whole.start + stop))
            for number, whole in enumerate(self.documents)
            for start, stop in sentences(self.text[whole.start : whole.stop])
        )


def _filled(form: str, contexts: tuple[str, ...], question: str, without: int | None) -> tuple[str, list[Span], Span]:
    """The form's text, and where in it the documents and the question stand."""
    parts = re.split(r"(\{documents\}|\{question\})", form)
    if parts.count("{documents}") != 1 or parts.count("{question}") != 1:
        raise OptionError(
            "template",
            repr(form),
            "a text with {documents} and {question}, each once",
            'For example "{documents}\\n\\nQuestion: {question}\\nAnswer:".',
        )
    text, documents, question_span = "", list[Span](), Span(0, 0)
    for part in parts:
        if part == "{question}":
            question_span = Span(len(text), len(text) + len(question.strip()))
            text += question.strip()
        elif part == "{documents}":
            for number, context in enumerate(contexts):
                if number == without:
                    documents.append(Span(len(text), len(text)))
                    continue
                if any(stop > start for start, stop in documents):
                    text += "\n\n"
                text += _HEADING.format(number=number + 1)
                documents.append(Span(len(text), len(text) + len(context.strip())))
                text += context.strip()
        else:
            text += part
    return text, documents, question_span


def _chat(tokenizer: Any, message: str) -> str:
    """The message as the tokenizer's chat template has it, up to where the answer begins."""
    messages = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if text.count(message) != 1:
        raise OptionError(
            "template",
            "a chat template that changes the message",
            "one that quotes it",
            "Give a template of your own, with {documents} and {question}.",
        )
    return str(text)
