"""Head ranking: which heads are worth showing, by criteria that one phrase explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

FAR = 16
"""The distance in tokens from which on a link counts as far."""


class Criterion(NamedTuple):
    """A reason to show a head: it has the greatest score, which is at least `least`."""

    title: str
    phrase: str
    least: float = 0.0
    reach: int = 2
    """How far away a link must be to be shown for it: 2 leaves out the query itself and its neighbours."""


CRITERIA = (
    Criterion("previous token", "gives {:.0%} of its weight to the token just before, the most of all heads", 0.2),
    Criterion("next token", "gives {:.0%} of its weight to the token just after, the most of all heads", 0.2),
    Criterion("induction", "gives at least {:.0%} to what followed an earlier copy of its token, the most", 0.1),
    Criterion("same token", "gives at least {:.0%} to other copies of its own token, the most of all", 0.1),
    Criterion(
        "sharp and far", f"gives at least {{:.0%}} to a few tokens {FAR} or more away, the most of all", 0.02, FAR
    ),
    Criterion("the start", "gives {:.0%} of its weight to the first token, as if to rest there", 0.2),
    Criterion("the end", "gives {:.0%} of its weight to the last token, as if to rest there", 0.2),
    Criterion("collector", "sends the weight of {:,.0f} queries more to one token than an even spread would", 8),
    Criterion("widest", "spreads over {:,.0f} tokens at a time, the most of all", 2),
)
"""In this order; a head is shown once, under the first criterion in which it is best."""

LINK_CRITERIA = "induction", "same token", "sharp and far"
"""Criteria whose scores count the strongest links of each query alone, so that they are lower bounds."""


class RankedHead(NamedTuple):
    """The index of a head among all heads, and in one phrase why it is shown."""

    head: int
    criterion: Criterion
    why: str


def criteria_scores(by_title: Mapping[str, Float[ndarray, " heads"]]) -> Float[ndarray, "heads criteria"]:
    """The scores of heads by the titles of criteria, as an array in the order of `CRITERIA`."""
    return np.stack([by_title[criterion.title] for criterion in CRITERIA], -1)


def rank_heads(scores: Float[ndarray, "heads criteria"], most: int = 6) -> list[RankedHead]:
    """The heads that are most worth showing, each by another criterion.

    >>> scores = np.zeros((2, len(CRITERIA)))
    >>> scores[1, 0] = 0.75
    >>> rank_heads(scores)[0].head, rank_heads(scores)[0].why
    (1, 'gives 75% of its weight to the token just before, the most of all heads')
    """
    ranking = list[RankedHead]()
    for criterion, by_head in zip(CRITERIA, scores.T, strict=True):
        best = int(by_head.argmax())
        if by_head[best] >= criterion.least and best not in {ranked.head for ranked in ranking}:
            ranking.append(RankedHead(best, criterion, criterion.phrase.format(by_head[best])))
    return ranking[:most]


def link_kinds(
    keys: Int[ndarray, "*h q links"],
    positions: Int[ndarray, " q"],
    ids: Int[ndarray, " n"] | None,
    count: int,
    ahead: bool,
) -> dict[str, Bool[ndarray, "*h q links"]]:
    """Which of the strongest links fulfil a criterion of `LINK_CRITERIA`.

    Args:
        keys: The keys of each query's links; −1 where there are none.
        positions: The index of the key at each query's own position.
        ids: A number for each token, equal where tokens are equal; None if not known: then no two are equal.
        count: How many keys there are.
        ahead: Whether queries see keys after themselves: then nothing is induction, and the last token, where
            heads of encoders often put weight that they do not need, is not far.
    """
    own = positions[:, None]
    last = count - 1 if ahead else count
    far = (keys > 0) & (keys < last) & (np.abs(own - keys) >= FAR)
    if ids is None:
        none = np.zeros_like(far)
        return dict(zip(LINK_CRITERIA, (none, none, far), strict=True))
    own_id = ids[own]
    induction = (keys > 0) & (keys < own) & (ids[np.maximum(keys - 1, 0)] == own_id) & (not ahead)
    same = (keys >= 0) & (keys != own) & (ids[keys] == own_id)
    return dict(zip(LINK_CRITERIA, (induction, same, far), strict=True))
