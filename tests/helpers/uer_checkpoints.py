"""A checkpoint of the package `fastbert` or `fastplm`, with the package's own answers, for tests of conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from doubles.pypi import register_configuration, spread_weights
from fastbert_hf.conversion import convert_checkpoint
from helpers.pypi import imported

# Special tokens where BERT has them; the package fastbert knows these numbers.
VOCABULARY = [
    *("[PAD]", *(f"[unused{number}]" for number in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(".", ",", "!", "[", "]", "the", "film", "is", "good", "bad", "not", "cafe", "un", "##think", "##able", "sep"),
    *"这部电影很好",
]
TEXTS = ["The film is good.", "这部电影很好!", "Café, unthinkable film", "not bad", "", "good " * 40, "电影 is qqq"]
SPEEDS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]
LENGTH = 24


@torch.no_grad()
def make_checkpoint(name: str, folder: Path) -> dict[str, Any]:
    """Files and answers of a small random model of the package of that name.

    Returns:
        Paths `checkpoint`, `settings` and `vocabulary`; `ids` and `segments` [B, T] of `TEXTS` as the package pads;
        and of its model `logits` [B, L, N] behind all layers and `exits` [S, B], the exit layers at `SPEEDS`.
    """
    vocabulary, checkpoint = folder / "vocab.txt", folder / "checkpoint.bin"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    with imported(name, folder) as package:
        sizes = {"emb_size": 32, "hidden_size": 32, "feedforward_size": 48, "layers_num": 3}
        kernel = register_configuration(package, folder, **sizes, hidden_act="gelu", vocab_path=str(vocabulary))
        model = package.FastBERT(kernel, labels=["a", "b", "c"], seq_length=LENGTH, is_load=False).eval()
        spread_weights(model)
        torch.save(model.state_dict(), checkpoint)
        rows = [model._convert_to_id_and_mask(text) for text in TEXTS]
        ids, segments = (torch.tensor(part) for part in zip(*rows, strict=True))
        hidden = model.kernel.embedding(ids, segments)
        mask = model._mask_transfer(segments, hidden)
        logits = []
        for layer, head in zip(model.kernel.encoder.transformer, model.classifiers, strict=True):
            hidden = layer(hidden, mask)
            logits.append(head(hidden, mask))
        exits = [[model(text, speed)[1] for text in TEXTS] for speed in SPEEDS]
    return {
        "checkpoint": checkpoint,
        "settings": folder / f"{kernel}.json",
        "vocabulary": vocabulary,
        "ids": ids,
        "segments": segments,
        "logits": torch.stack(logits, dim=1),
        "exits": torch.tensor(exits),
    }


def convert(made, folder, **options):
    """Convert what `make_checkpoint` made."""
    options = {"vocabulary": made["vocabulary"], "settings": [made["settings"]], **options}
    return convert_checkpoint(made["checkpoint"], folder, **options)
