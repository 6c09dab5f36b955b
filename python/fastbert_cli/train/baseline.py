"""What a bag of words makes of the same texts, so that a teacher that learnt too little does not go unnoticed."""

from __future__ import annotations

import time

from fastbert_hf.analysis.bag_of_words import train_bag_of_words
from fastbert_hf.data import ClassificationData
from fastbert_hf.data.samples import select_texts
from fastbert_hf.scoring import Row
from fastbert_hf.training.evaluation import scores_of

MOST_TEXTS = 20_000  # that it learns from: some seconds of work


def bag_of_words_row(train: ClassificationData, dev: ClassificationData) -> Row | None:
    """Return name, accuracy, macro F1 and seconds of training of a bag of words, for the table of scores.

    Args:
        train: labelled texts; of many, evenly spread ones are taken.
        dev: labelled texts to score on, with the classes of `train`.

    Returns:
        `None` where none can be had: several classes per text, texts without words or of one class, or no scikit-learn
        (extra `demo`).
    """
    import torch

    if train.multi_label:
        return None
    step = -(-len(train) // MOST_TEXTS)
    begin = time.perf_counter()
    try:
        bag = train_bag_of_words(select_texts(train, range(0, len(train), step)))
    except (ImportError, ValueError):
        return None
    seconds = time.perf_counter() - begin
    predictions = torch.from_numpy(bag.predict(dev))
    scores = scores_of(predictions, torch.tensor(dev.label_ids), len(train.label_names))
    return {"setting": f"bag of {bag.unit}", **scores, "seconds_of_training": seconds}
