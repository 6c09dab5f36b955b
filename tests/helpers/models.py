"""Models whose uncertainties spread over [0, 1], and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor


def tiny_config(layers: int = 4, hidden_size: int = 32, labels: int = 3, problem_type=None, **overrides):
    from transformers import BertConfig

    from fastbert_hf import FastBertConfig

    backbone = BertConfig(
        vocab_size=97,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=512,
        **overrides,
    )
    return FastBertConfig(backbone, head_hidden_size=64, num_labels=labels, problem_type=problem_type)


def spread_model(seed: int = 0, **config):
    """A random tiny model whose weights are large enough for uncertainties all over [0, 1] at every layer."""
    from fastbert_hf import FastBertForSequenceClassification

    torch.manual_seed(seed)
    model = FastBertForSequenceClassification(tiny_config(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                gain = 6.0 if "classifier" in name else 1.0
                parameter.normal_(0, gain / parameter.shape[-1] ** 0.5)
    return model


def with_exit_zero(model, buckets: int = 256, gain: float = 2.0):
    """The model with a random hashed bag before its first layer, whose uncertainties spread too."""
    from fastbert_hf.bag import HashedBag

    bag = HashedBag(buckets, model.num_labels).to(model.dtype)
    with torch.no_grad():
        for parameter in bag.parameters():
            parameter.normal_(0, gain)
    model.heads = torch.nn.ModuleList([bag, *model.heads]).train(model.training)
    model.config.exit_layers, model.config.exit_zero_buckets = [0, *model.config.exit_layers], buckets
    return model


def padded_batch(lengths: list[int], vocabulary: int = 97) -> dict[str, Tensor]:
    """Random token ids [B, longest] with padding on the right."""
    size, longest = len(lengths), max(lengths, default=0)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long() if size else torch.zeros(0, longest).long()
    return {"input_ids": torch.randint(1, vocabulary, (size, longest)) * mask, "attention_mask": mask}


def folded_head(head, dtype: torch.dtype):
    """`engine.weights.AttentiveHeadWeights` of a `fastbert_hf.heads.AttentiveHead`."""
    from fastbert_kernels.engine.folding import fold_attentive_head
    from fastbert_kernels.hosts import fastbert_hf as host

    tensors = [getattr(module, name).detach() for module, name in host.head_parameters(head)]
    return fold_attentive_head(*tensors, num_attention_heads=head.num_attention_heads, dtype=dtype)
