"""Every family of backbones: computed as Transformers does, loaded strictly, refused with a reason."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    CLIPConfig,
    ElectraForPreTraining,
)

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification, FastBertOutput
from fastbert_hf.backbones import num_segments
from helpers.families import (
    FAMILIES,
    LONGEST,
    NUM_LAYERS,
    WITH_SEGMENTS,
    make_backbone_config,
    make_batch,
    make_model,
    speed_that_divides,
)

every_family = pytest.mark.parametrize("family", FAMILIES)


def assert_same(left: FastBertOutput, right: FastBertOutput) -> None:
    torch.testing.assert_close(left.logits, right.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.uncertainty, right.uncertainty, rtol=1e-5, atol=1e-5)
    assert torch.equal(left.exit_layer, right.exit_layer)


@every_family
@torch.no_grad()
def test_computed_as_transformers_does(family: str) -> None:
    model = make_model(family)
    ids, mask = make_batch()
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if family in WITH_SEGMENTS:
        inputs["token_type_ids"] = (torch.arange(12) > 4).long().expand(5, -1)
    hidden = model.backbone(**inputs).last_hidden_state
    expected = model.teacher_classifier(hidden, mask)
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    *_, last = model.exit_hidden_states(**inputs)
    valid = mask.bool()
    torch.testing.assert_close(last[valid], hidden[valid], rtol=1e-5, atol=1e-5)


@every_family
@torch.no_grad()
def test_adaptive_inference_selects_from_all_exits(family: str) -> None:
    model = make_model(family)
    ids, mask = make_batch(7)
    speed = speed_that_divides(model, ids, mask)
    output = model(ids, mask, speed=speed)
    assert_same(output, model(ids, mask, speed=speed, output_all_exits=True))
    assert (output.exit_layer < NUM_LAYERS).sum() == 3


@pytest.mark.parametrize(
    ("family", "implementation"),
    [case for case in itertools.product(FAMILIES, ("sdpa", "eager")) if case != ("mpnet", "sdpa")],
)
@torch.no_grad()
def test_padding_of_any_amount_and_side_changes_nothing(family: str, implementation: str) -> None:
    model = make_model(family, attn_implementation=implementation)
    ids, _ = make_batch(3, 9)
    speed = speed_that_divides(model, ids, torch.ones_like(ids))
    expected = model(ids, speed=speed)
    for left, right in [(0, 1), (0, LONGEST - 9), (LONGEST - 9, 0), (3, 5)]:
        padded = nn.functional.pad(ids, (left, right), value=7)  # a real token, which the mask must hide
        mask = nn.functional.pad(torch.ones_like(ids), (left, right))
        assert_same(model(padded, mask, speed=speed), expected)


@every_family
@torch.no_grad()
def test_sizes_read_alike_in_every_family(family: str) -> None:
    model = make_model(family)
    config = model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert sizes == (32, NUM_LAYERS, 4, 64)
    assert config.hidden_act == ("relu" if family == "distilbert" else "gelu")
    norms = [module for layer in model.layers for module in layer.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * NUM_LAYERS and {norm.eps for norm in norms} == {config.layer_norm_eps}
    assert len(model.layers) == NUM_LAYERS

    assert config.max_position_embeddings == LONGEST
    ids, _ = make_batch(2, LONGEST)
    assert model(ids).logits.isfinite().all()
    with pytest.raises(ValueError, match=f"max_length={LONGEST}"):
        model(make_batch(2, LONGEST + 1)[0])


@every_family
@torch.no_grad()
def test_token_types(family: str) -> None:
    model = make_model(family)
    ids, mask = make_batch()
    zeros = torch.zeros_like(ids)
    assert_same(model(ids, mask, zeros), model(ids, mask))
    assert_same(model(ids, token_type_ids=zeros), model(ids))
    assert (num_segments(model.backbone) > 1) == (family in WITH_SEGMENTS)
    ones = zeros.clone()
    ones[0, 1] = 1
    if family in WITH_SEGMENTS:
        assert not torch.allclose(model(ids, mask, ones).logits[0], model(ids, mask).logits[0])
        return
    for arguments in ((ids, mask, ones), (ids, None, ones)):
        with pytest.raises(ValueError, match="token_type_ids must be 0: this backbone does not tell segments apart"):
            model(*arguments)


def save_with_head(family: str, auto_class: Any, folder: Path) -> nn.Module:
    source = auto_class.from_config(make_backbone_config(family)).eval()
    source.save_pretrained(folder)
    return source


HEADS = {"plain": AutoModel, "classifier": AutoModelForSequenceClassification, "masked-words": AutoModelForMaskedLM}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert-generation"])
@torch.no_grad()
def test_from_backbone_with_or_without_a_task_head(family: str, head: str, tmp_path: Path) -> None:
    source = save_with_head(family, HEADS[head], tmp_path)
    model = FastBertForSequenceClassification.from_backbone(str(tmp_path), num_labels=3, head_hidden_size=16)
    base = source.base_model
    weights = base.state_dict()
    own = model.backbone.state_dict()
    assert not any("pooler" in name for name in own)
    assert own.keys() == {name for name in weights if not name.startswith("pooler")}
    assert all(torch.equal(value, weights[name]) for name, value in own.items())
    ids, mask = make_batch()
    expected = model.teacher_classifier(base(ids, attention_mask=mask).last_hidden_state, mask)
    torch.testing.assert_close(model(ids, mask).logits, expected, rtol=1e-5, atol=1e-5)


def test_head_of_electras_discriminator_is_dropped(tmp_path: Path) -> None:
    ElectraForPreTraining(make_backbone_config("electra-small")).save_pretrained(tmp_path)
    model = FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)
    assert not any("discriminator" in name for name in model.state_dict())


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    save_file({new: value for name, value in load_file(file).items() if (new := change(name))}, file, {"format": "pt"})


@every_family
def test_incomplete_backbone_does_not_load(family: str, tmp_path: Path) -> None:
    save_with_head(family, AutoModel, tmp_path)
    lost = "transformer.layer.2.ffn.lin2.bias" if "distilbert" in family else "encoder.layer.2.output.dense.bias"
    change_weights(tmp_path, lambda name: name if name != lost else None)
    with pytest.raises(RuntimeError, match=f"lacks parameters of the backbone: .*{lost}"):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


@every_family
def test_backbone_with_other_names_does_not_load(family: str, tmp_path: Path) -> None:
    save_with_head(family, AutoModel, tmp_path)
    change_weights(tmp_path, lambda name: name.replace("LayerNorm", "layernorm").replace("layer_norm", "layernorm"))
    with pytest.raises(RuntimeError, match="lacks parameters of the backbone"):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


@pytest.mark.parametrize("head", ["plain", "classifier"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_checkpoint_deeper_than_its_configuration_does_not_load(family: str, head: str, tmp_path: Path) -> None:
    save_with_head(family, HEADS[head], tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    name = "n_layers" if family == "distilbert" else "num_hidden_layers"
    file.write_text(json.dumps(fields | {name: NUM_LAYERS - 1}))
    with pytest.raises(RuntimeError, match=r"config.json knows nothing of: .*layer\.3\."):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


def test_buffers_of_old_checkpoints_are_no_obstacle(tmp_path: Path) -> None:
    save_with_head("roberta", AutoModel, tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file) | {"embeddings.position_ids": torch.arange(LONGEST + 2)[None]}
    save_file(weights, file, {"format": "pt"})
    FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


def test_old_names_of_layer_norm_are_read(tmp_path: Path) -> None:
    """As in the checkpoints of bert-base-uncased and bert-base-chinese."""
    source = save_with_head("bert", AutoModelForMaskedLM, tmp_path)
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if "LayerNorm" in name:  # ones and zeros are what a fresh one has
                parameter.normal_()
    source.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    change_weights(tmp_path, lambda name: next((name.replace(*pair) for pair in old.items() if pair[0] in name), name))
    model = FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)
    weights = source.base_model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.backbone.state_dict().items())


SMALL = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AutoConfig.for_model("gpt2"), "it is a decoder"),
        (AutoConfig.for_model("llama"), "it is a decoder"),
        (AutoConfig.for_model("t5"), "it is an encoder with a decoder"),
        (AutoConfig.for_model("bert", is_decoder=True, **SMALL), "must be an encoder"),
        (AutoConfig.for_model("roberta-prelayernorm", **SMALL), "pre-LayerNorm"),
        (AutoConfig.for_model("megatron-bert", **SMALL), "pre-LayerNorm"),
        (AutoConfig.for_model("deberta-v2", relative_attention=True, **SMALL), "relative positions"),
        (AutoConfig.for_model("bert", position_embedding_type="relative_key", **SMALL), "relative positions"),
        (AutoConfig.for_model("roformer", **SMALL), "rotary"),
        (AutoConfig.for_model("albert", **SMALL), "no encoder layers in encoder.layer"),
        (AutoConfig.for_model("longformer", **SMALL), "layers are not BERT's"),
        (AutoConfig.for_model("big_bird", **SMALL), "attention is of its own kind"),
        (AutoConfig.for_model("ibert", **SMALL), "QuantLinear"),
        (AutoConfig.for_model("layoutlm", **SMALL), "x_position_embeddings"),
        (AutoConfig.for_model("rembert", **SMALL), "embedding_hidden_mapping_in"),
        (AutoConfig.for_model("ernie", use_task_id=True, **SMALL), "task_type_embeddings"),
        (CLIPConfig(), "its configuration has no hidden_size"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_other_types_are_refused_with_the_reason(config: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        FastBertConfig(config)
    assert f"backbone type {config.model_type!r} is not supported: " in str(caught.value)
    assert "supported are bert, roberta, xlm-roberta, camembert, electra, distilbert, mpnet and other" in str(
        caught.value
    )
    config.save_pretrained(tmp_path)  # a configuration alone: refused before any weight is looked for
    with pytest.raises(ValueError, match=reason):
        FastBertForSequenceClassification.from_backbone(str(tmp_path), 2)


def test_relative_positions_need_eager_attention() -> None:
    with pytest.raises(ValueError, match="relative positions, which sdpa attention has no place for; take eager"):
        make_model("mpnet", attn_implementation="sdpa")


@torch.no_grad()
def test_attentions_of_mpnet_are_those_of_transformers() -> None:
    model = make_model("mpnet")
    ids, mask = make_batch()
    expected = model.backbone(ids, attention_mask=mask, output_attentions=True).attentions
    got = model(ids, mask, output_attentions=True).attentions
    for mine, theirs in zip(got, expected, strict=True):
        of_tokens = mask.bool()[:, None, :, None]  # padding has other positions
        torch.testing.assert_close(mine * of_tokens, theirs * of_tokens, rtol=1e-5, atol=1e-6)


def test_the_table_of_relative_positions_learns() -> None:
    model = make_model("mpnet").train()
    table = model.backbone.encoder.relative_attention_bias.weight
    ids, mask = make_batch()
    model(ids, mask, labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    assert table.grad.abs().sum() > 0
    model.freeze_for_distillation()
    table.grad = None
    model(ids, mask, output_all_exits=True).all_logits[:, :-1].sum().backward()
    assert table.grad is None


def test_type_of_which_automodel_knows_nothing() -> None:
    with pytest.raises(ValueError, match="backbone type 'fastbert' is not supported: AutoModel does not know it"):
        FastBertConfig(FastBertConfig())
