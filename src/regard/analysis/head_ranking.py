"""Which heads are worth a person's time, by criteria that can be said in one phrase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

FAR = 16
"""Tokens away from which on a link counts as far."""


class Criterion(NamedTuple):
    """What makes a head worth showing: the one of greatest score, if that is at least `least`."""

    title: str
    phrase: str
    least: float = 0.0
    reach: int = 2
    """How far away a link must lie to be shown for it: 2 leaves out itself and its neighbours."""


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
"""In this order; a head is shown once, under the first that it wins."""

LINK_CRITERIA = "induction", "same token", "sharp and far"
"""Criteria that are counted among the strongest links of a query alone, so that they are lower bounds."""


class RankedHead(NamedTuple):
    """A head, by its place among all, and in one phrase why it is shown."""

    head: int
    criterion: Criterion
    why: str


def criteria_scores(by_title: Mapping[str, Float[ndarray, " heads"]]) -> Float[ndarray, "heads criteria"]:
    """The scores of heads, in the order of the criteria."""
    return np.stack([by_title[one.title] for one in CRITERIA], -1)


def rank_heads(scores: Float[ndarray, "heads criteria"], most: int = 6) -> list[RankedHead]:
    """The heads that tell most, each for another reason.

    >>> scores = np.zeros((2, len(CRITERIA)))
    >>> scores[1, 0] = 0.75
    >>> rank_heads(scores)[0].head, rank_heads(scores)[0].why
    (1, 'gives 75% of its weight to the token just before, the most of all heads')
    """
    won = list[RankedHead]()
    for criterion, mine in zip(CRITERIA, scores.T, strict=True):
        best = int(mine.argmax())
        if mine[best] >= criterion.least and best not in {one.head for one in won}:
            won.append(RankedHead(best, criterion, criterion.phrase.format(mine[best])))
    return won[:most]


def link_kinds(
    keys: Int[ndarray, "*h q links"],
    places: Int[ndarray, " q"],
    ids: Int[ndarray, " n"] | None,
    count: int,
    ahead: bool,
) -> dict[str, Bool[ndarray, "*h q links"]]:
    """Which of the strongest links fulfil a criterion of `LINK_CRITERIA`.

    Args:
        keys: The keys of each query's links; −1 where there are none.
        places: The key at each query's own place.
        ids: Of all tokens, the same for the same; None: not known, and then no two are the same.
        count: How many keys there are.
        ahead: Whether queries see keys after themselves: these need not guess what comes next, and of such
            texts the ends, where heads rest, are not far.
    """
    own = places[:, None]
    last = count - 1 if ahead else count
    far = (keys > 0) & (keys < last) & (np.abs(own - keys) >= FAR)
    if ids is None:
        nothing = np.zeros_like(far)
        return dict(zip(LINK_CRITERIA, (nothing, nothing, far), strict=True))
    mine = ids[own]
    induction = (keys > 0) & (keys < own) & (ids[np.maximum(keys - 1, 0)] == mine) & (not ahead)
    same = (keys >= 0) & (keys != own) & (ids[keys] == mine)
    return dict(zip(LINK_CRITERIA, (induction, same, far), strict=True))
