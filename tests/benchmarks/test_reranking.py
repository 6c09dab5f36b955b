"""The benchmark of reranking: what is searched, and a run from a backbone to the table."""

from __future__ import annotations

import math
import random

import pytest
from transformers import BertConfig, BertModel

import reranking as benchmark
from helpers.training import make_tokenizer
from ranking.search import Bm25, Pair, pair_of, searches


def test_a_docstring_is_a_query_and_a_document():
    found = pair_of("Return the sum\n   of all numbers. It adds one after the other, and begins\n\n with zero. Fast.")
    assert found == Pair("Return the sum of all numbers", "It adds one after the other, and begins with zero. Fast.")
    assert pair_of("Return the sum of all numbers.") is None
    assert pair_of("Sum it. It adds one after the other, and begins with zero.") is None


def test_candidates_are_those_of_the_formula():
    texts = ["a red fox", "a red red dog and a red cat", "the dog", "a fox and a dog"]
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / len(words)

    def score(query: str, own: list[str]) -> float:
        total = 0.0
        for word in query.split():
            having = sum(word in other for other in words)
            times = own.count(word)
            weight = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(own) / mean))
            total += math.log(1 + (4 - having + 0.5) / (having + 0.5)) * weight
        return total

    bm25 = Bm25(texts)
    for query in ("red", "dog fox", "a red dog"):
        wanted = sorted(
            (number for number in range(4) if score(query, words[number])), key=lambda n: -score(query, words[n])
        )
        assert bm25.best(query, 4) == wanted and bm25.best(query, 1) == wanted[:1]
    assert bm25.best("zebra", 4) == []


def test_searches_say_where_the_own_document_is():
    pairs = [Pair("red fox", "a red fox"), Pair("red dog", "the dog and the cat"), Pair("zebra", "something else")]
    found = searches(pairs, Bm25([pair.document for pair in pairs]), range(3), 2)
    assert [search.own for search in found] == [0, 1, None]
    assert found[0].documents == ["a red fox"]


def test_from_a_backbone_to_the_table(tmp_path, monkeypatch, capsys):
    draw, tokenizer = random.Random(0), make_tokenizer()

    def sentence(words: int) -> str:
        return " ".join(draw.choice(["good", "bad", "very", "film", "book"]) for _ in range(words))

    pairs = [Pair(sentence(6), sentence(12)) for _ in range(benchmark.QUICK.documents)]
    monkeypatch.setattr(benchmark, "read_pairs", lambda most, seed: pairs[:most])
    backbone = tmp_path / "backbone"
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "results"), "--backbone", str(backbone)]
    benchmark.main([*arguments, "--quick"])
    assert not (tmp_path / "results").exists()
    page = capsys.readouterr().out
    assert "| patched, at most 50% other tops |" in page and "fine-tuning: step 1 of 1" in page

    result = benchmark.run_all(benchmark.parse_arguments([*arguments, "--quick"]))  # of the models that are there
    assert "fine-tuning" not in capsys.readouterr().out and {"fine-tuning", "adopting"} <= result["seconds"].keys()
    eager, whole, early = result["rows"]
    assert eager["over_eager"] == whole["over_full_depth"] == 1 and "same_top" not in eager
    assert (whole["same_top"], whole["mean_layers"], whole["shared_documents"]) == (4, 3, 1)
    assert 0 <= early["same_top"] <= 4 and 1 <= early["mean_layers"] <= 3 and len(early["bounds"]) == 2
    with pytest.raises(SystemExit, match="name another folder with --run"):
        benchmark.run_all(benchmark.parse_arguments([*arguments, "--seed", "1", "--quick"]))
