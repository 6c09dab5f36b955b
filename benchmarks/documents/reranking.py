"""What leaving early is worth to a reranker, for docs/adopting.md and the page beside the result file."""

from __future__ import annotations

from typing import Any

from families import in_words
from harness import markdown_table

Result = dict[str, Any]


def sections(results: dict[str, Result]) -> str:
    """Return a paragraph and a table for every family; a sentence where none has been measured."""
    return "\n\n".join(_section(family, result) for family, result in results.items()) or (
        "How often the top is the same, and the time, is measured by `benchmarks/reranking.py`; no result is here yet."
    )


def _section(family: str, result: Result) -> str:
    machine = result["machine"]
    return (
        f"Measured by `benchmarks/reranking.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({machine['date'][:10]}, torch {machine['versions']['torch']}). {_setup(result)} Raw figures: "
        f"`benchmarks/results/reranking_cpu_{family}.json`.\n\n{rows(result)}"
    )


def page(result: Result) -> str:
    """Return the page beside the result file."""
    seconds = ", ".join(f"{step} {seconds / 60:.1f}" for step, seconds in result["seconds"].items())
    changes = ", ".join(f"{change:.2f}" for change in result["rms_score_change"])
    return "\n\n".join(
        [
            "# Reranking",
            f"{_setup(result)} {result['rounds']} rounds, interleaved and shuffled; ratios are medians of the ratios "
            f"within a round. {result['threads']} threads, load of the machine before the run {result['load'][0]:.1f}.",
            rows(result),
            f"Scores behind layers 1 to {len(result['rms_score_change'])} are so far from full depth's (root mean "
            f"square, on the calibration's queries): {changes}.",
            f"Minutes of each step, beside other work: {seconds}.",
        ]
    )


def _setup(result: Result) -> str:
    sizes = result["sizes"]
    return (
        f"Docstring search with a cross-encoder of the 6-layer MiniLM; {sizes['candidates']} candidates of each query, "
        f"by BM25 among {sizes['documents']:,} documents, cut off at {result['max_length']} tokens; bounds from "
        f"{sizes['calibration']} queries, {sizes['test']} others compared, {sizes['timed']} of them timed, tokenising "
        f"included. BM25 has the query's own docstring among its candidates {result['own_found_by_bm25']} times, and "
        f"in its top {sizes['top_k']} {result['own_in_top_of_bm25']} times."
    )


def rows(result: Result) -> str:
    """Return the table, a line for each contestant."""
    top = f"top {result['sizes']['top_k']}"
    lines = []
    for row in result["rows"]:
        queries = row.get("queries")
        lines.append(
            {
                "": row["contestant"],
                f"{top} as at full depth": "-" if queries is None else f"{row['same_top']} of {queries}",
                "documents of it": "-" if queries is None else f"{row['shared_documents']:.1%}",
                "mean layers": f"{row.get('mean_layers', result['layers']):.2f} of {result['layers']}",
                "ms a query": f"{row['milliseconds_per_query']:.0f}",
                "over eager": f"{row['over_eager']:.2f}x",
                "over full depth": f"{row['over_full_depth']:.2f}x",
                f"own docstring in the {top}": "-" if queries is None else f"{row['own_in_top']} of {queries}",
            }
        )
    return markdown_table(lines)
