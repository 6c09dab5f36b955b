"""BitVoyage's model written out here, and converted."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.conversion import ConversionError, convert_checkpoint


class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(1 + 0.1 * torch.randn(size)), nn.Parameter(0.1 * torch.randn(size))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, 1e-12)


def attention(query, key, value, x, heads, mask=None):
    parts = [module(x).unflatten(-1, (heads, -1)).transpose(1, 2) for module in (query, key, value)]
    return F.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).flatten(2)


class BitVoyage(nn.Module):
    """The parameters of BitVoyage/FastBERT by their names, and its arithmetic."""

    def __init__(self, width=32, inner=48, narrow=16, depth=3, labels=3):
        super().__init__()
        self.embeddings, self.graph = nn.Module(), nn.Module()
        tables = {"word_embeddings": 40, "position_embeddings": 20, "token_type_embeddings": 2}
        for name, rows in tables.items():
            self.embeddings.add_module(name, nn.Embedding(rows, width))
        self.embeddings.LayerNorm = Norm(width)
        self.graph.layers = nn.ModuleList()
        for _ in range(depth):
            parts = {f"attention.self.{name}": nn.Linear(width, width) for name in ("query", "key", "value")}
            parts |= {"attention.output.dense": nn.Linear(width, width), "attention.output.LayerNorm": Norm(width)}
            parts |= {"intermediate.dense": nn.Linear(width, inner)}
            parts |= {"output.dense": nn.Linear(inner, width), "output.LayerNorm": Norm(width)}
            self.graph.layers.append(tree(parts))
        names = [*(f"branch_classifier_{i}" for i in range(depth - 1)), "final_classifier"]
        self.graph.layer_classifiers = nn.ModuleDict()
        for name in names:
            parts = {f"selfAttention.{part}": nn.Linear(narrow, narrow) for part in ("query", "key", "value")}
            parts |= {"dense_narrow": nn.Linear(width, narrow), "dense_prelogits": nn.Linear(narrow, narrow)}
            self.graph.layer_classifiers[name] = tree(parts | {"dense_logits": nn.Linear(narrow, labels)})
        self.graph.layer_classifier = self.graph.layer_classifiers["final_classifier"]
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, (4 if "dense_logits" in name else 1) / parameter.shape[-1] ** 0.5)

    def forward(self, ids, segments, heads, head_heads, activation):
        e = self.embeddings
        words, places = e.word_embeddings(ids), e.position_embeddings.weight[: ids.shape[1]]
        x = e.LayerNorm(words + places + e.token_type_embeddings(segments))
        for layer, head in zip(self.graph.layers, self.graph.layer_classifiers.values(), strict=True):
            own = layer.attention.self
            x = layer.attention.output.LayerNorm(
                layer.attention.output.dense(attention(own.query, own.key, own.value, x, heads)) + x
            )
            x = layer.output.LayerNorm(layer.output.dense(activation(layer.intermediate.dense(x))) + x)
            own = head.selfAttention
            first = attention(own.query, own.key, own.value, head.dense_narrow(x), head_heads)[:, 0]
            yield head.dense_logits(head.dense_prelogits(first))


def tree(parts):
    root = nn.Module()
    for path, module in parts.items():
        *parents, name = path.split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = getattr(place, parent)
        place.add_module(name, module)
    return root


@pytest.fixture
def bitvoyage(tmp_path):
    """Checkpoint, the two configurations and the model."""
    torch.manual_seed(5)
    model = BitVoyage().eval()
    torch.save(model.state_dict(), tmp_path / "Epoch_3.bin")
    first, second = {"num_attention_heads": 4, "hidden_act": "relu", "num_hidden_layers": 3}, {"num_class": 3}
    (tmp_path / "bert_config.json").write_text(json.dumps(first))
    (tmp_path / "fastbert_cls.json").write_text(json.dumps(second | {"cls_num_attention_heads": 8}))
    settings = [tmp_path / "bert_config.json", tmp_path / "fastbert_cls.json"]
    return {"checkpoint": tmp_path / "Epoch_3.bin", "settings": settings, "model": model}


def test_bitvoyage(bitvoyage, tmp_path):
    report = convert_checkpoint(bitvoyage["checkpoint"], tmp_path / "out", settings=bitvoyage["settings"])
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert report.format == "bitvoyage" and not report.tokenizer
    assert set(report.left_out.values()) == {"another name of the last exit head"}
    with pytest.raises(ConversionError, match="has 3 classes, but there are names for 1"):
        convert_checkpoint(
            bitvoyage["checkpoint"], tmp_path / "other", settings=bitvoyage["settings"], label_names=["a"]
        )
    assert report.mapped.keys() | report.left_out.keys() == bitvoyage["model"].state_dict().keys()
    assert model.config.head_activation == "identity" and report.comparison.equal_exits == 1
    # Exact in float64, and that is told from the rounding of answers to float32.
    assert all(0 < layer.logits_float64 < 1e-10 and layer.logits < 1e-4 for layer in report.comparison.layers)
    for length in (1, 2, 7, 20):
        ids, segments = torch.randint(40, (5, length)), torch.randint(2, (5, length))
        with torch.inference_mode():
            want = torch.stack(list(bitvoyage["model"](ids, segments, 4, 8, F.relu)), dim=1)
            got = model(ids, token_type_ids=segments, output_all_exits=True).all_logits
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


def test_bitvoyage_refusals(bitvoyage, tmp_path):
    with pytest.raises(ConversionError, match="does not say num_attention_heads, hidden_act, cls_num_attention_heads"):
        convert_checkpoint(bitvoyage["checkpoint"], tmp_path / "out")
    with pytest.raises(ConversionError, match="does not say cls_num_attention_heads"):
        convert_checkpoint(bitvoyage["checkpoint"], tmp_path / "out", settings=bitvoyage["settings"][:1])
    state = dict(bitvoyage["model"].state_dict())
    state["graph.layer_classifier.dense_logits.bias"] = state["graph.layer_classifier.dense_logits.bias"] + 1
    torch.save(state, tmp_path / "old.bin")
    with pytest.raises(ConversionError, match="older than the repository's commit"):
        convert_checkpoint(tmp_path / "old.bin", tmp_path / "out", settings=bitvoyage["settings"])
    assert not (tmp_path / "out").exists()
