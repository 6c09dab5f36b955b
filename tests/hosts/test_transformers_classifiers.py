"""Classifiers of Transformers at full depth, against the same models unpatched."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    pipeline,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import fastbert_kernels
from fastbert_kernels import precision
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.hosts import find_host
from fastbert_kernels.hosts.bert_layers import layer_parameters
from helpers.accuracy import assert_mean_error_is_like
from helpers.classifiers import LENGTHS, assert_close, make_batch, make_model, run, run_fast
from helpers.families import LONGEST, PADDING_ID, VOCABULARY
from helpers.hooks import assert_hooks_are_heeded
from helpers.patched import only_the_fast_path
from helpers.training import make_tokenizer

REGRESSION, SINGLE, MULTI = "regression", "single_label_classification", "multi_label_classification"
KINDS = {  # every family and every kind of answer, paired
    "bert": (2, SINGLE),
    "ernie": (5, MULTI),
    "roberta": (1, None),
    "xlm-roberta": (5, None),
    "camembert": (2, MULTI),
    "data2vec-text": (2, REGRESSION),
    "electra-small": (1, REGRESSION),
    "electra-base": (5, SINGLE),
    "distilbert": (2, None),
    "distilbert-sinusoidal": (1, MULTI),
    "mpnet": (5, None),
}
WITHOUT_SEGMENTS = ("roberta", "xlm-roberta", "camembert", "data2vec-text")  # and refuse them


@pytest.fixture(params=KINDS)
def family(request):
    return request.param


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_logits_are_those_of_the_unpatched_model(family, backend):
    model, batch = make_model(family, *KINDS[family]), make_batch()
    batch["input_ids"][1, 3] = PADDING_ID  # a token like others for the mask, and none where positions are counted
    if family in ("bert", "electra-small", "ernie"):
        batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape)
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend=backend)
    got, want, exact = run_fast(fast, batch), run(model, batch), run(copy.deepcopy(model).double(), batch)
    assert type(got) is SequenceClassifierOutput and got.keys() == want.keys() == {"logits"}
    assert_close(got.logits, want.logits)
    assert_mean_error_is_like(got.logits, want.logits, exact.logits)
    for row, length in enumerate(LENGTHS):  # alone, without a mask
        alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items() if name != "attention_mask"}
        answer = run_fast(fast, alone).logits
        assert_close(answer, want.logits[row : row + 1])
        # Neighbours change no bit, but for what ELECTRA projects with PyTorch's Linear.
        assert backend != "cpu" or family == "electra-small" or torch.equal(answer, got.logits[row : row + 1])


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_labels_of_500_inputs(family):
    model, batch = make_model(family, 5), make_batch(torch.randint(1, LONGEST + 1, (500,)).tolist())
    want = run(model, batch).logits
    got = run_fast(fastbert_kernels.patch(model), batch).logits
    assert_close(got, want)
    first, second = want.topk(2, dim=1).values.unbind(dim=1)
    clear = first - second > 2e-4 * want.abs().max()
    assert clear.sum() > 490 and want.argmax(dim=1).unique().numel() > 1
    assert torch.equal(got.argmax(dim=1)[clear], want.argmax(dim=1)[clear])


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 0.05), (torch.int8, 0.15)], ids=["bfloat16", "int8"])
def test_low_precision_is_close(family, dtype, allowed):
    model, batch = make_model(family, *KINDS[family]), make_batch([3, LONGEST, 9, 17] * 8)
    fast = fastbert_kernels.patch(copy.deepcopy(model), dtype=dtype)
    encoder = find_host(model).encoder(model, dtype, "cpu").get()
    assert isinstance(encoder, CompiledEncoder) and encoder.dtype == torch.bfloat16
    got, want = run_fast(fast, batch).logits, run(copy.deepcopy(model).double(), batch).logits
    assert got.dtype == torch.float32
    assert (got - want).abs().mean() < allowed * want.std()
    first, *others = want.topk(min(2, want.shape[1]), dim=1).values.unbind(dim=1)
    if others:
        clear = first - others[0] > want.std() / 2
        assert clear.any() and torch.equal(got.argmax(dim=1)[clear], want.argmax(dim=1)[clear])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_answers_in_it(dtype):
    model, batch = make_model("electra-small", 1), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    run(fast, batch)
    for each in (model, fast):  # the one that is patched, too
        each.to(dtype)
    got, want = run_fast(fast, batch).logits, run(model, batch).logits
    assert got.dtype == want.dtype == dtype
    torch.testing.assert_close(
        got, want, rtol=0, atol=1e-4 if dtype == torch.float64 else 0.05 * float(want.abs().max())
    )


LOSSES = {
    "class ids": (5, None, torch.tensor([0, 4, 2, 1])),
    "a column of class ids": (5, SINGLE, torch.tensor([[0], [4], [2], [1]])),
    "several labels": (5, None, torch.eye(5)[:4]),
    "several labels of one": (1, MULTI, torch.tensor([[0.0], [1.0], [1.0], [0.0]])),
    "scores": (1, None, torch.tensor([0.5, -1.0, 2.0, 0.0])),
    "five scores": (5, REGRESSION, torch.linspace(-2, 2, 20).view(4, 5)),
}


@pytest.mark.parametrize(("num_labels", "problem_type", "labels"), LOSSES.values(), ids=LOSSES)
def test_loss_is_that_of_the_unpatched_model(num_labels, labels, problem_type):
    model, batch = make_model("roberta", num_labels, problem_type), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    got, want = run_fast(fast, batch, labels=labels), run(model, batch, labels=labels)
    assert got.keys() == want.keys() == {"loss", "logits"}
    assert_close(got.loss, want.loss)
    assert fast.config.problem_type == model.config.problem_type is not None
    got, want = (run(each, batch, labels=labels, return_dict=False) for each in (fast, model))
    assert type(got) is type(want) is tuple and len(got) == len(want) == 2
    assert_close(got[0], want[0])


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "position_ids"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_ids_that_are_no_integers_are_refused_as_by_the_model(name, dtype):
    model, batch = make_model("bert", 2, SINGLE), make_batch()
    batch |= dict.fromkeys(("token_type_ids", "position_ids"), torch.zeros_like(batch["input_ids"]))
    batch[name] = batch[name].to(dtype)
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend="cpu")
    for one in (model, fast):
        with torch.inference_mode(), pytest.raises((TypeError, RuntimeError, IndexError)):
            one(**batch)


@pytest.mark.parametrize(("family", "names"), [("bert", ["token_type_ids", "position_ids"]), ("distilbert", [])])
def test_arguments_by_position_and_by_name(monkeypatch, family, names):
    model, batch = make_model(family), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    own, runs = CompiledEncoder.run, []
    monkeypatch.setattr(CompiledEncoder, "run", lambda *arguments: runs.append(1) or own(*arguments))
    ids, mask = batch.values()
    more = [torch.randint(0, 2, ids.shape), torch.arange(LONGEST).flip(0)[None]][: len(names)]
    with torch.inference_mode():
        want = model(ids, mask, *more).logits
        assert_close(fast(ids, mask, *more).logits, want)
        assert_close(fast(ids, mask, **dict(zip(names, more, strict=True))).logits, want)
        assert_close(fast(ids, mask, *more, inputs_embeds=None, output_attentions=False).logits, want)
        fast.config.return_dict = False
        assert_close(fast(ids, mask, *more)[0], want)
        assert len(runs) == 4
        for wrong in ({"input_ids": ids}, {"labels": None, "attention_mask": mask}):
            with pytest.raises(TypeError, match="multiple values"):
                fast(ids, mask, **wrong)


def test_distilbert_does_not_look_at_segments():
    model, batch = make_model("distilbert"), make_batch()
    batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
    want = run(model, batch).logits
    assert_close(run_fast(fastbert_kernels.patch(model), batch).logits, want)


UNUSUAL = {
    "output_hidden_states": lambda batch: {"output_hidden_states": True},
    "output_attentions": lambda batch: {"output_attentions": True},
    "inputs_embeds": lambda batch: {"inputs_embeds": torch.randn(4, LONGEST, 32), "input_ids": None},
    "an attention mask of shape": lambda batch: {"attention_mask": batch["attention_mask"].bool()[:, None, None]},
    "padding at the first position": lambda batch: {name: tensor.flip(1) for name, tensor in batch.items()},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_calls_are_the_models_own_and_said_once(name):
    model, batch = make_model("roberta", attn_implementation="eager"), make_batch()
    unusual = {**batch, **UNUSUAL[name](batch)}
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    want, usual = run(model, unusual), run(model, batch)
    with pytest.warns(RuntimeWarning, match=f"own forward, not the fast path, answers calls with {name}"):
        got = run(fast, unusual)
    assert got.keys() == want.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        again = run(fast, unusual)
        assert_close(run(fast, batch).logits, usual.logits)
    for answer in (got, again):
        assert torch.equal(answer.logits, want.logits)
    assert_close(run_fast(fast, batch).logits, usual.logits)  # also with the hooks that Transformers leaves
    assert_close(run_fast(fastbert_kernels.patch(fast), batch).logits, usual.logits)


def test_padding_between_tokens_is_mpnets_own():
    """Where a distance says something, a gap between tokens is not nothing."""
    model, batch = make_model("mpnet", 5), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    batch["attention_mask"][1, 3:5] = 0
    with pytest.warns(RuntimeWarning, match="answers calls with padding between tokens, whose distance it changes"):
        got = run(fast, batch)
    assert torch.equal(got.logits, run(model, batch).logits)


def test_mpnets_table_of_relative_positions_is_heeded():
    model, batch = make_model("mpnet", 5), make_batch()
    table = "mpnet.encoder.relative_attention_bias"
    assert_hooks_are_heeded(lambda: make_model("mpnet", 5), lambda model: run(model, batch).logits, table)
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    before = run_fast(fast, batch).logits
    with torch.no_grad():
        for each in (model, fast):
            each.get_submodule(table).weight.add_(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))
    want = run(model, batch).logits
    assert_close(run_fast(fast, batch).logits, want)
    assert not torch.allclose(before, want, atol=1e-2)


def test_a_layer_of_mpnet_alone_is_refused():
    layer = make_model("mpnet").mpnet.encoder.layer[0]
    with pytest.raises(ValueError, match="as part of a backbone of MPNet only, which has their table"):
        layer_parameters(layer)


def test_settings_of_the_configuration_are_read_at_every_call():
    model, batch = make_model(), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    for each in (model, fast):
        each.config.output_hidden_states = True
    with pytest.warns(RuntimeWarning, match="calls with output_hidden_states"):
        assert len(run(fast, batch).hidden_states) == len(run(model, batch).hidden_states) > 1
    fast = fastbert_kernels.patch(copy.deepcopy(model := make_model()))
    for each in (model, fast):
        each.config.is_decoder = True
    want = run(model, batch).logits
    with pytest.warns(RuntimeWarning, match="calls with is_decoder"):
        assert torch.equal(run(fast, batch).logits, want)


def test_train_mode_and_autograd_are_the_models_own():
    model, batch = make_model("distilbert"), make_batch()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    with pytest.warns(RuntimeWarning, match="autograd on, so its own forward answered"):
        fast(**batch, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
    assert all(parameter.grad is not None for parameter in fast.classifier.parameters())
    for each in (model, fast):
        each.train()
    torch.manual_seed(3)
    want = run(model, batch).logits
    torch.manual_seed(3)
    assert torch.equal(run(fast, batch).logits, want)
    fast.eval()
    with torch.no_grad():
        fast.classifier.weight.mul_(2)
        fast.classifier.bias.mul_(2)
    assert_close(run_fast(fast, batch).logits, 2 * run(model.eval(), batch).logits)


def test_gradient_checkpointing_is_for_training():
    model, batch = make_model(), make_batch()
    want = run(model, batch).logits
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    for each in (model, fast):  # before and after
        each.gradient_checkpointing_enable()
    assert_close(run(fast, batch).logits, want)  # looks at the model anew
    assert_close(run_fast(fast, batch).logits, want)
    assert_close(run_fast(fastbert_kernels.patch(model), batch).logits, want)


def test_bad_input_is_refused_as_by_the_unpatched_model(family):
    model, batch = make_model(family), make_batch()
    ids, mask = batch.values()
    too_many = {"input_ids": ids.repeat(1, 2), "attention_mask": mask.repeat(1, 2)}
    strange = {"input_ids": ids.masked_fill(ids > 40, VOCABULARY), "attention_mask": mask}
    no_batch = {"input_ids": ids[:, None], "attention_mask": mask}
    cases = [too_many, strange, no_batch, {"attention_mask": mask}]
    if family in WITHOUT_SEGMENTS:
        cases.append({**batch, "token_type_ids": mask})
    for wrong in cases:
        for each in (model, fastbert_kernels.patch(copy.deepcopy(model))):
            with pytest.raises((IndexError, ValueError, RuntimeError, AttributeError)):
                run(each, wrong)


def test_saving_and_unpatching_give_the_plain_model(tmp_path):
    model, batch = make_model("camembert", 5, MULTI), make_batch()
    attributes, state = dict(model.__dict__), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    want = run(model, batch).logits
    fastbert_kernels.patch(model, dtype=torch.bfloat16)
    run(model, batch)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and loaded.config.problem_type == MULTI
    assert torch.equal(run(loaded, batch).logits, want)
    assert "patched by fastbert_kernels" in repr(model)
    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and torch.equal(run(model, batch).logits, want)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("num_labels", "problem_type"), [(1, None), (3, SINGLE), (3, MULTI)])
def test_in_a_pipeline(num_labels, problem_type):
    tokenizer = make_tokenizer()
    model = make_model("bert", num_labels, problem_type, vocab_size=len(tokenizer), pad_token_id=0)
    texts = ["the film was good", "bad", "very very good film"] * 2
    plain = pipeline("text-classification", model=copy.deepcopy(model), tokenizer=tokenizer)
    classify = pipeline("text-classification", model=fastbert_kernels.patch(model), tokenizer=tokenizer)
    with only_the_fast_path(model):
        got = classify(texts, top_k=None, batch_size=4)
    for answer, expected in zip(got, plain(texts, top_k=None, batch_size=4), strict=True):
        scores = [{entry["label"]: entry["score"] for entry in entries} for entries in (answer, expected)]
        assert len(scores[0]) == num_labels and scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_in_a_cross_encoder(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    tokenizer = make_tokenizer()
    make_model("bert", 1, vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reranker = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    query, documents = "good film", ["the film", "bad", "very very good", "was the film good"]
    pairs = [(query, document) for document in documents]
    want = reranker.predict(pairs)
    ranks = reranker.rank(query, documents)
    with pytest.raises(TypeError, match=r"patch the model in it, model.get_submodule\('0.model'\)"):
        fastbert_kernels.patch(reranker)
    fastbert_kernels.patch(reranker.model)
    with only_the_fast_path(reranker.model):
        assert reranker.predict(pairs) == pytest.approx(want, abs=1e-5)
        found = reranker.rank(query, documents)
    assert [rank["corpus_id"] for rank in found] == [rank["corpus_id"] for rank in ranks]


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "finding"),
    [
        (3, None, "of 32 probe labels differ"),
        (3, MULTI, "scores of 32 probe texts differ by up to 0"),
        (1, None, "scores of 32 probe texts differ by up to 0"),
    ],
)
def test_auto_compares_what_users_read(monkeypatch, num_labels, problem_type, finding):
    monkeypatch.setenv("FASTBERT_PRODUCT_RATES", "float32=80 bfloat16=100 int8=80")
    model = make_model("roberta", num_labels, problem_type)
    found = fastbert_kernels.patch_info(fastbert_kernels.patch(model, dtype="auto"))
    assert found["dtype"] == "bfloat16" and finding in found["reason"]
    monkeypatch.setattr(precision, "TOLERANCE", 1e-7)
    found = fastbert_kernels.patch_info(fastbert_kernels.patch(model, dtype="auto"))
    assert found["dtype"] == "float32" and re.search(f"bfloat16 does not agree: .*{finding}", found["reason"])
