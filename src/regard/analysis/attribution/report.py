"""The figures of an attribution that are printed and put on a page, for the chosen layer and head."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from regard.analysis.attribution import Attribution
from regard.analysis.attribution.result import REST

NEGLIGIBLE = 5e-4
"""Parts of less weight are not worth a line: a learned sink, in models that have none."""


@dataclass(frozen=True, eq=False)
class AttributionReport:
    """An attribution as it is shown. Shares are numbers between 0 and 1."""

    model: str
    names: tuple[str, ...]
    """Of the documents."""
    attribution: Attribution
    generated: bool
    """Whether the model wrote the answer; otherwise it was given."""
    layer: int | None
    head: int | None
    over: str
    left_out: Float[ndarray, "documents answer"] | None
    """The result of `leave_one_out`, if it was computed."""

    @property
    def heads_label(self) -> str:
        """Which heads the shares are of, as text."""
        layers, heads = self.attribution.mass.shape[:2]
        if self.layer is not None and self.head is not None:
            return f"head {self.layer}.{self.head}"
        if self.layer is not None:
            which = f"the {heads} heads of layer {self.layer}"
        elif self.head is not None:
            which = f"head {self.head} of all {layers} layers"
        else:
            which = f"all {layers} × {heads} heads"
        return f"the {'mean' if self.over == 'mean' else 'greatest'} of {which}"

    @functools.cached_property
    def documents(self) -> Float[ndarray, "answer documents"]:
        """The share of all weight on each document, token by token."""
        return self._shares("documents")

    @functools.cached_property
    def sentences(self) -> Float[ndarray, "answer sentences"]:
        """The share on each sentence."""
        return self._shares("sentences")

    @functools.cached_property
    def together(self) -> Float[ndarray, " answer"]:
        """The share on all documents together."""
        return self._shares("together")[:, 0]

    @functools.cached_property
    def rest(self) -> dict[str, float]:
        """The mean share of each part that is no document, by name."""
        shares = self._shares("rest").mean(0)
        named = dict(zip(REST, shares.tolist(), strict=True))
        return {name: share for name, share in named.items() if share >= NEGLIGIBLE}

    @functools.cached_property
    def by_layer(self) -> Float[ndarray, "layers documents"]:
        """The mean over the answer of each layer's share, and with `head` of that head's."""
        return _array(self.attribution.by_layer(head=self.head, over=self.over))

    @staticmethod
    def among(shares: Float[ndarray, "*s of"]) -> Float[ndarray, "*s of"]:
        """Shares of the weight that goes to documents at all."""
        return shares / np.maximum(shares.sum(-1, keepdims=True), np.finfo(np.float32).tiny)

    def strongest(self, document: int) -> str:
        """The heads that give most to a document."""
        heads = self.attribution.strongest_heads(document)
        return ", ".join(f"{layer}.{head} {share:.0%}" for layer, head, share in heads)

    def sentence(self, number: int) -> str:
        """A sentence's text on one line."""
        _, (start, stop) = self.attribution.sentences[number]
        return " ".join(self.attribution.prompt.text[start:stop].split())

    def _shares(self, of: str) -> ndarray:
        return _array(self.attribution.shares(of, layer=self.layer, head=self.head, over=self.over))


def _array(shares: Tensor) -> ndarray:
    return shares.double().numpy()
