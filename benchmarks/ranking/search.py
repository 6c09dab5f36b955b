"""Docstring search: the first sentence of a docstring looks for the rest of it, among candidates that BM25 finds."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastbert_hf.docstrings import DEFINITIONS, LIBRARIES, clean_paragraph, docstrings_of, find_libraries, python_files

MOST_CHARACTERS = 600  # of a document
_FEWEST_WORDS = {"query": 4, "document": 8}
_K1, _B = 1.2, 0.75


class Pair(NamedTuple):
    """A docstring: its first sentence, and what follows."""

    query: str
    document: str


@dataclass(frozen=True)
class Search:
    """A query and its candidates.

    Attributes:
        query: a first sentence.
        documents: the candidates, the best by BM25 first.
        own: where the query's own docstring stands among them; `None`: BM25 did not find it.
    """

    query: str
    documents: list[str]
    own: int | None


def read_pairs(most: int, seed: int) -> list[Pair]:
    """Return so many docstrings of the installed libraries and the standard library, all different, in random order.

    Raises:
        ModuleNotFoundError: a library is not installed.
        ValueError: there are not so many.
    """
    files = [file for root in find_libraries(LIBRARIES).values() for file in python_files(root)]
    random.Random(seed).shuffle(files)
    pairs: dict[str, Pair] = {}
    documents: set[str] = set()
    for file in files:
        for docstring in docstrings_of(file, DEFINITIONS):
            pair = pair_of(docstring)
            if pair is not None and pair.query.lower() not in pairs and pair.document not in documents:
                documents.add(pair.document)
                pairs[pair.query.lower()] = pair
        if len(pairs) >= most:
            break
    else:
        raise ValueError(f"there are only {len(pairs)} docstrings of two sentences; give fewer --documents")
    found = list(pairs.values())[:most]
    random.Random(seed).shuffle(found)
    return found


def pair_of(docstring: str) -> Pair | None:
    """Return a docstring in two parts; `None` where one of them has too few words."""
    sentence, _, rest = re.sub(r"\s+", " ", docstring).strip().partition(". ")
    pair = Pair(clean_paragraph(sentence), clean_paragraph(rest)[:MOST_CHARACTERS])
    enough = all(len(getattr(pair, part).split()) >= fewest for part, fewest in _FEWEST_WORDS.items())
    return pair if enough else None


class Bm25:
    """Okapi BM25 over texts, with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009, section 3.3)."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / len(lengths)
        self._weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, count in enumerate(counts):
            shrink = _K1 * (1 - _B + _B * lengths[number] / mean)
            for word, times in count.items():
                self._weights[word].append((number, times * (_K1 + 1) / (times + shrink)))
        self._size = len(texts)

    def best(self, query: str, count: int) -> list[int]:
        """Return the texts that fit the query best, best first; of equal ones the first."""
        scores: dict[int, float] = defaultdict(float)
        for word in set(words_of(query)):
            found = self._weights.get(word, [])
            rarity = math.log(1 + (self._size - len(found) + 0.5) / (len(found) + 0.5))
            for number, weight in found:
                scores[number] += rarity * weight
        return sorted(scores, key=lambda number: (-scores[number], number))[:count]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def searches(pairs: Sequence[Pair], bm25: Bm25, numbers: range, candidates: int) -> list[Search]:
    """Return the queries of some pairs with their candidates among all."""
    found = []
    for number in numbers:
        best = bm25.best(pairs[number].query, candidates)
        own = best.index(number) if number in best else None
        found.append(Search(pairs[number].query, [pairs[other].document for other in best], own))
    return found
