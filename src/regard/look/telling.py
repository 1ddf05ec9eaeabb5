"""Which heads and which links of a study are worth a person's time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from regard.analysis.head_ranking import LINK_CRITERIA, criteria_scores, link_kinds, rank_heads
from regard.look.study import Ahead, Head, Study, Words

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


def _scores(study: Study) -> dict[str, list[float]]:
    """Of every head, by the titles of the criteria."""
    by_head = [_linked(head, study.words) for head in study.heads]
    ahead = [head.ahead or Ahead(0.0, 0.0) for head in study.heads]
    return {
        **{name: [one[name] for one in by_head] for name in LINK_CRITERIA},
        "previous token": [head.previous for head in study.heads],
        "next token": [one.following for one in ahead],
        "the start": [head.first for head in study.heads],
        "the end": [one.last for one in ahead],
        "collector": [float((head.received - head.share).max()) for head in study.heads],
        "widest": [head.effective for head in study.heads],
    }


def _linked(head: Head, words: Words) -> dict[str, float]:
    """Mean weights on what is told by the strongest links alone; the first query has no choice."""
    n = len(words)
    kinds = link_kinds(head.keys, np.arange(n), words.ids, n, head.ahead is not None)
    given = {name: (head.weights * hit).sum(-1)[1:] for name, hit in kinds.items()}
    return {name: float(each.mean()) if n > 1 else 0.0 for name, each in given.items()}


def telling(study: Study, most: int = 5) -> list[Pick]:
    """The heads that tell most, each for another reason."""
    if len(study.heads) == 1:
        (only,) = study.heads
        return [Pick(only, "the head asked for", "as asked")]
    scores = criteria_scores({title: np.array(each) for title, each in _scores(study).items()})
    return [
        Pick(study.heads[one.head], one.criterion.title, one.why, one.criterion.reach)
        for one in rank_heads(scores, most)
    ]


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
