"""Which samples share a batch, and in which order batches come."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from fastbert_hf.data import TokenisedDataset


class EpochSampler(LengthGroupedSampler):
    """Samples in random order with texts of similar length side by side, which saves most of the padding.

    The order depends on the seed and `epoch` alone, not on the global generator: a resumed run and every process of
    several see the batches that one uninterrupted process sees.

    Args:
        lengths: tokens of every sample.
        batch_size: samples per optimiser step, of all processes together.
        seed: of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Any:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class NumberedDataset(Dataset[tuple[int, dict[str, Any]]]):
    """A data set whose batches say under `sample_index`, int64 [B], where their samples are in it."""

    def __init__(self, dataset: TokenisedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        return index, self.dataset[index]

    def collate(self, items: list[tuple[int, dict[str, Any]]]) -> dict[str, torch.Tensor]:
        """Pad a list of items to its longest, as int64 tensors."""
        indices, samples = zip(*items, strict=True)
        return {**self.dataset.collate(list(samples)), "sample_index": torch.tensor(indices)}


class SetEpoch(TrainerCallback):
    """Tells a sampler which epoch begins; accelerate's wrappers do not, in every combination of them."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        steps_per_epoch = math.ceil(len(self._sampler) / self._sampler.batch_size)
        self._sampler.epoch = state.global_step // steps_per_epoch
