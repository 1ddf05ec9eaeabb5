"""Which heads and which links are worth a person's time, by criteria that can be said in one phrase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from regard.look.study import Head, Study, Words

FAR = 16
"""Tokens back from which on a link counts as far."""

CANDIDATES = 4000
"""Strongest links of a head that are looked through for those to show."""


NEAR = 4
"""Tokens of prose that count as one place."""


LEAST = 0.005
"""What is less is shown as 0.00, and tells nothing."""


class Link(NamedTuple):
    """A query that gives weight to a key."""

    query: int
    key: int
    weight: float


class Pick(NamedTuple):
    """A head, and in one phrase why it is shown."""

    head: Head
    title: str
    why: str
    reach: int = 2
    """How far away a link must lie to be shown: 2 leaves out itself and its neighbours."""


@dataclass(frozen=True)
class Criterion:
    """What makes a head worth showing: the one of greatest score, if that is at least `least`."""

    title: str
    score: Callable[[Head, Study], float]
    phrase: str
    least: float = 0.0
    reach: int = 2


def copied(head: Head, words: Words) -> float:
    """Mean weight on tokens that followed an earlier copy of the query's token: induction.

    Counted among the strongest links alone, so that it is a lower bound. Heads that look ahead score 0: they
    need not guess what comes next.
    """
    if head.ahead:
        return 0.0
    query, key = np.arange(len(words))[:, None], head.keys
    before = words.ids[np.maximum(key - 1, 0)]
    hit = (key > 0) & (key < query) & (before == words.ids[:, None])
    return _mean_of(head, hit)


def same(head: Head, words: Words) -> float:
    """Mean weight on other copies of the query's own token; a lower bound likewise."""
    query, key = np.arange(len(words))[:, None], head.keys
    hit = (key >= 0) & (key != query) & (words.ids[key] == words.ids[:, None])
    return _mean_of(head, hit)


def far(head: Head) -> float:
    """Mean weight on words that lie far off, the text's ends not counted; a lower bound likewise."""
    distance = np.abs(np.arange(len(head.keys))[:, None] - head.keys)
    last = len(head.keys) - 1 if head.ahead else len(head.keys)
    return _mean_of(head, (head.keys > 0) & (head.keys < last) & (distance >= FAR))


def _mean_of(head: Head, hit: ndarray) -> float:
    weights = (head.weights * hit).sum(-1)
    return float(weights[1:].mean()) if len(weights) > 1 else 0.0


CRITERIA = (
    Criterion("previous token", lambda h, s: h.previous,
              "gives {score:.0%} of its weight to the token just before, the most of all heads", 0.2),
    Criterion("next token", lambda h, s: h.ahead.following if h.ahead else 0,
              "gives {score:.0%} of its weight to the token just after, the most of all heads", 0.2),
    Criterion("induction", lambda h, s: copied(h, s.words),
              "gives at least {score:.0%} to what followed an earlier copy of its token, the most", 0.1),
    Criterion("same token", lambda h, s: same(h, s.words),
              "gives at least {score:.0%} to other copies of its own token, the most of all", 0.1),
    Criterion("sharp and far", lambda h, s: far(h),
              f"gives at least {{score:.0%}} to a few tokens {FAR} or more away, the most of all", 0.02, FAR),
    Criterion("the start", lambda h, s: h.first,
              "gives {score:.0%} of its weight to the first token, as if to rest there", 0.2),
    Criterion("the end", lambda h, s: h.ahead.last if h.ahead else 0,
              "gives {score:.0%} of its weight to the last token, as if to rest there", 0.2),
    Criterion("collector", lambda h, s: float((h.received - h.share).max()),
              "sends the weight of {score:,.0f} queries more to one token than an even spread would", 8),
    Criterion("widest", lambda h, s: h.effective,
              "spreads over {score:,.0f} tokens at a time, the most of all"),
)  # fmt: skip
"""In this order; a head is shown once, under the first that it wins."""


def telling(study: Study, most: int = 5) -> list[Pick]:
    """The heads that tell most, each for another reason."""
    if len(study.heads) == 1:
        (only,) = study.heads
        return [Pick(only, "the head asked for", "as asked")]
    picks = list[Pick]()
    for criterion in CRITERIA:
        taken = {id(pick.head) for pick in picks}
        scored = [(criterion.score(head, study), head) for head in study.heads]
        best, head = max(scored, key=lambda pair: pair[0])
        if best >= criterion.least and id(head) not in taken:
            picks.append(Pick(head, criterion.title, criterion.phrase.format(score=best),
                              criterion.reach))  # fmt: skip
    return picks[:most]


def strongest(study: Study, head: Head, count: int, reach: int = 2) -> list[Link]:
    """A head's strongest links, of those that tell something.

    Left out: links less than `reach` tokens away (to itself, to its neighbours) and to the start, links
    of white space and of tokens that the model added, those of queries that see few keys, and repetitions
    of a pair of words, or of places, already shown.
    """
    n = len(study.words)
    queries = np.broadcast_to(np.arange(n)[:, None], head.keys.shape)
    words = np.array([bool(text.strip()) for text in study.words.texts]) & ~study.words.added
    some = min(16, n // 4)
    fit = (head.keys > 0) & (np.abs(queries - head.keys) >= reach) & (head.visible[:, None] > some)
    fit &= words[queries] & words[head.keys]
    weights = np.where(fit, head.weights, 0)
    found = np.argsort(-weights, axis=None, kind="stable")[:CANDIDATES]
    links, pairs, places = list[Link](), set[tuple[str, str]](), set[tuple[int, int]]()
    place_of = np.arange(n) // NEAR if study.prose else study.words.lines
    for at in found:
        query, rank = divmod(int(at), head.keys.shape[1])
        key, weight = int(head.keys[query, rank]), float(weights[query, rank])
        pair = study.words.texts[query].strip(), study.words.texts[key].strip()
        where = int(place_of[query]), int(place_of[key])
        if weight < LEAST:
            break
        if pair in pairs or where in places:
            continue
        pairs.add(pair)
        places.add(where)
        links.append(Link(query, key, weight))
        if len(links) == count:
            break
    return links
