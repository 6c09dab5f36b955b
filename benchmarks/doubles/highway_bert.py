"""Models of the structure that `hosts.deebert` knows, on a BERT or RoBERTa of Transformers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from transformers.models.bert.modeling_bert import BertPooler

VOCABULARY, DEPTH, LABELS = 70, 4, 3
FAMILIES = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}


class Highway(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.pooler, self.dropout = BertPooler(config), nn.Dropout(0.1)
        self.classifier = nn.Linear(config.hidden_size, LABELS)

    def forward(self, hidden):
        return self.classifier(self.dropout(self.pooler(hidden)))


class FirstTokenLinear(Highway):
    """Without a pooler."""

    def __init__(self, config):
        super().__init__(config)
        del self.pooler

    def forward(self, hidden):
        return self.classifier(hidden[:, 0])


class HighwayModel(nn.Module):
    def __init__(self, family="bert", pooled=True, classifier_pooled=None, *, seed=0, **sizes):
        super().__init__()
        torch.manual_seed(seed)
        make_config, make_backbone = FAMILIES[family]
        defaults = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "type_vocab_size": 2,
        }
        self.config = make_config(**{**defaults, **sizes})
        self.family = family
        classifier_pooled = pooled if classifier_pooled is None else classifier_pooled
        backbone = make_backbone(self.config, add_pooling_layer=classifier_pooled)
        kind = Highway if pooled else FirstTokenLinear
        depth = self.config.num_hidden_layers
        backbone.encoder.highway = nn.ModuleList(kind(self.config) for _ in range(depth))
        backbone.encoder.early_exit_entropy = [-1] * depth
        setattr(self, family, backbone)
        self.classifier = nn.Linear(self.config.hidden_size, LABELS)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, (3 if "classifier" in name else 1) / parameter.shape[-1] ** 0.5)

    @property
    def backbone(self):
        return getattr(self, self.family)

    def set_thresholds(self, *values):
        self.backbone.encoder.early_exit_entropy = list(values)
        return self

    def every(self, input_ids, attention_mask, token_type_ids=None):
        """Logits [L + 1, B, N] of all highways and of the classifier, nobody leaving; one text after another."""
        logits = []
        for number, (row, valid) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            segments = None if token_type_ids is None else token_type_ids[number, valid][None]
            hidden = self.backbone.embeddings(input_ids=row[valid][None], token_type_ids=segments)
            own = []
            for layer, highway in zip(self.backbone.encoder.layer, self.backbone.encoder.highway, strict=True):
                hidden = layer(hidden)
                own.append(highway(hidden))
            pooled = hidden[:, 0] if self.backbone.pooler is None else self.backbone.pooler(hidden)
            logits.append(torch.cat([*own, self.classifier(pooled)]))
        return torch.stack(logits, dim=1)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        labels=None,
        output_layer=-1,
        train_highway=False,
    ):
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.answer(input_ids, attention_mask, token_type_ids, labels, output_layer)

    def answer(self, input_ids, attention_mask, token_type_ids, labels, output_layer):
        return self.decide(self.every(input_ids, attention_mask, token_type_ids), labels, output_layer)

    def decide(self, every, labels=None, output_layer=-1):
        """The answers, from the logits of all."""
        entropy = entropy_of(every)
        thresholds = torch.tensor([*self.backbone.encoder.early_exit_entropy, float("inf")], dtype=entropy.dtype)
        first = (entropy < thresholds[:, None]).int().argmax(dim=0)
        samples = torch.arange(len(first))
        logits = every[output_layer] if output_layer >= 0 else every[first, samples]
        loss = () if labels is None else (nn.functional.cross_entropy(logits, labels),)
        layers = (first + 1).clamp(max=len(every) - 1)
        exit_layer = layers if len(layers) > 1 else int(layers)
        return (*loss, logits, (), (entropy[first, samples], []), exit_layer)


def entropy_of(logits):
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
