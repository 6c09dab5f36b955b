"""Plain classifiers of Transformers on backbones of BERT's structure: where each class keeps its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlainHead:
    """What a class of models does with the first token: dense, activation, classifier.

    `{}` in a path stands for the name of the backbone.

    Attributes:
        dense: path of the first Linear.
        activation: a name where the class calls a function, or the path of a module.
        classifier: path of the second Linear.
    """

    dense: str
    activation: str
    classifier: str

    def of(self, model: Any) -> PlainHead:
        """Return the paths in `model`."""
        name = model.base_model_prefix
        return PlainHead(self.dense.format(name), self.activation.format(name), self.classifier.format(name))


_POOLER = PlainHead("{}.pooler.dense", "{}.pooler.activation", "classifier")
_TANH = PlainHead("classifier.dense", "tanh", "classifier.out_proj")
_MODULE = PlainHead("classifier.dense", "classifier.activation", "classifier.out_proj")
_RELU = PlainHead("pre_classifier", "relu", "classifier")
HEADS = {
    f"transformers.models.{name}ForSequenceClassification": head
    for name, head in {
        "bert.modeling_bert.Bert": _POOLER,
        "ernie.modeling_ernie.Ernie": _POOLER,
        "roberta.modeling_roberta.Roberta": _TANH,
        "xlm_roberta.modeling_xlm_roberta.XLMRoberta": _TANH,
        "camembert.modeling_camembert.Camembert": _TANH,
        "data2vec.modeling_data2vec_text.Data2VecText": _TANH,
        "electra.modeling_electra.Electra": _MODULE,
        "distilbert.modeling_distilbert.DistilBert": _RELU,
        "mpnet.modeling_mpnet.MPNet": _TANH,
    }.items()
}


def is_plain_classifier(kind: type) -> bool:
    """Return whether a class is one of these, or derived from one."""
    return any(_name(base) in HEADS for base in kind.__mro__)


def plain_head(model: Any) -> PlainHead | None:
    """Return where the head is that the model's own forward calls; None for a forward that is none of these."""
    found = HEADS.get(_name(type(model).forward).removesuffix(".forward"))
    return None if found is None else found.of(model)


def _name(of: Any) -> str:
    return f"{of.__module__}.{getattr(of, '__qualname__', '')}"
