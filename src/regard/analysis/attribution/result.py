"""The result: where the weight of every head went while each token of an answer was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.analysis.attribution.prompt import Prompt, Span
from regard.errors import OptionError

FIRST, TEMPLATE, QUESTION, ANSWER = range(4)
"""The parts of a prompt before those that are sentences."""

REST = ("first token", "template", "question", "answer so far", "learned sink")
"""Where weight goes that does not go to documents; a learned sink is a part of no token (gpt-oss)."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """The weights of the queries that chose an answer's tokens: of each, the token before it.

    `regard.attribute` makes it. Here by hand, of a head that looks at all six parts alike:

    >>> prompt = Prompt.of(["The cat sat. It purred."], "Who sat?", tokenizer=None)
    >>> ids, mass = torch.arange(2), torch.full((1, 1, 2, 6), 1 / 6)
    >>> attribution = Attribution(prompt, ids, "the cat", ids, ("the", " cat"), ids * -1.0, ("layer",), mass)
    >>> [prompt.text[start:stop] for _, (start, stop) in attribution.sentences]
    ['The cat sat. ', 'It purred.']
    >>> attribution.shares("documents")  # two of the six parts, for each token of the answer
    tensor([[0.3333],
            [0.3333]])
    """

    prompt: Prompt
    prompt_ids: Int[Tensor, " prompt"]
    answer: str
    answer_ids: Int[Tensor, " answer"]
    tokens: tuple[str, ...]
    """What each token adds to the answer's text; nothing where a character needs further tokens."""
    logprobs: Float[Tensor, " answer"]
    """The log probability of each token after all before it, in nats."""
    layers: tuple[str, ...]
    """The names of the modules that attend."""
    mass: Float[Tensor, "layers heads answer parts"]
    """The weight on each part: the first token, the template, the question, the answer so far, and every
    sentence in the order of `prompt.sentences`. It sums to 1, or less where a head has a learned sink."""

    @property
    def sentences(self) -> tuple[tuple[int, Span], ...]:
        """Every sentence: the number of its document, and where it stands in `prompt.text`."""
        return self.prompt.sentences

    def by_head(self, of: str = "documents") -> Float[Tensor, "layers heads answer of"]:
        """The share of each head's weight on each of the "documents", the "sentences" or the "rest".

        Or on the documents "together", as one number.

        The rest is `REST`: the first token of the text, on which many heads rest whatever it is (Xiao et al.,
        2023), counts there alone. So do the words that the template adds.

        Raises:
            OptionError: another word.
        """
        on_sentences = self.mass[..., ANSWER + 1 :]
        if of == "sentences":
            return on_sentences
        if of == "rest":
            sink = (1 - self.mass.sum(-1, keepdim=True)).clamp(min=0)
            return torch.cat((self.mass[..., : ANSWER + 1], torch.where(sink > 1e-4, sink, 0)), -1)
        if of == "together":
            return on_sentences.sum(-1, keepdim=True)
        if of != "documents":
            raise OptionError(
                "of",
                repr(of),
                "'documents', 'sentences', 'together' or 'rest'",
                "Documents are sums of their sentences.",
            )
        number = torch.tensor([number for number, _ in self.sentences], device=self.mass.device)
        empty = self.mass.new_zeros((*self.mass.shape[:-1], len(self.prompt.contexts)))
        return empty.index_add(-1, number, on_sentences)

    def shares(
        self, of: str = "documents", *, layer: int | None = None, head: int | None = None, over: str = "mean"
    ) -> Float[Tensor, "answer of"]:
        """The share of weight for each token of the answer: the mean over heads, or the greatest of any.

        Args:
            of: "documents", "sentences", "together" or "rest", as in `by_head`.
            layer, head: Only this layer, only this head of each; from 0.
            over: "mean", or "max": what the head gives that gives most. Greatest shares do not sum to 1.

        Raises:
            OptionError: there is no such layer, head or word.
        """
        if over not in ("mean", "max"):
            raise OptionError(
                "over", repr(over), "'mean' or 'max'", "The mean shares weight out, the maximum finds single heads."
            )
        chosen = self.by_head(of)
        for name, given, dim in (("layer", layer, 0), ("head", head, 1)):
            if given is None:
                continue
            if not 0 <= given < chosen.shape[dim]:
                raise OptionError(
                    name,
                    given,
                    f"0 to {chosen.shape[dim] - 1}, the {name}s of this model",
                    f"{name.capitalize()}s are counted from 0.",
                )
            chosen = chosen.narrow(dim, given, 1)
        return chosen.mean((0, 1)) if over == "mean" else chosen.amax((0, 1))

    def by_layer(
        self, of: str = "documents", *, head: int | None = None, over: str = "mean"
    ) -> Float[Tensor, "layers of"]:
        """The same layer by layer, and its mean over the answer's tokens."""
        layers = [self.shares(of, layer=i, head=head, over=over) for i in range(len(self.layers))]
        return torch.stack(layers).mean(1)

    def strongest_heads(self, document: int, count: int = 3) -> list[tuple[int, int, float]]:
        """The heads that give most to a document, the mean over the answer: layer, head and share."""
        shares = self.by_head()[..., document].mean(-1)
        best = shares.flatten().sort(descending=True, stable=True).indices[:count].tolist()
        pairs = [divmod(int(at), shares.shape[1]) for at in best]
        return [(layer, head, float(shares[layer, head])) for layer, head in pairs]


def among(shares: Float[Tensor, "*s of"]) -> Float[Tensor, "*s of"]:
    """Shares of the weight that goes to documents at all: they sum to 1.

    >>> among(torch.tensor([0.02, 0.06])).tolist()
    [0.25, 0.75]
    """
    return shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
