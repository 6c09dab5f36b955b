"""The examples of docs/hosts.md, one for each host, run as they stand on small models."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, pipeline

import fastbert_kernels
from doubles.branchy_bert import BranchyBert
from doubles.highway_bert import HighwayModel
from doubles.pypi import register_configuration, spread_weights
from doubles.script_classifier import ScriptClassifier
from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from helpers.pypi import imported
from helpers.training import make_tokenizer

SECTION = (Path(__file__).resolve().parents[2] / "docs" / "hosts.md").read_text().partition("## Examples\n")[2]
EXAMPLES = dict(re.findall(r"^### (.+?)\n\n```python\n(.*?)```", SECTION, flags=re.DOTALL | re.MULTILINE))
IDS = torch.randint(2, 60, (6, 12), generator=torch.Generator().manual_seed(0))
VALID = (torch.arange(12) < torch.arange(2, 14, 2)[:, None]).long()


def execute(name, **given):
    """All names behind the example. What it has printed is not looked at."""
    names = {"__name__": "example", **given}
    exec(compile(EXAMPLES[name], f"the example {name!r} of docs/hosts.md", "exec"), names)
    assert fastbert_kernels.is_patched(names["model"])
    return names


def test_there_is_an_example_for_every_host():
    of_others = ["fastbert", "fastplm", "run_fastbert.py", "BitVoyage/FastBERT", "DeeBERT"]
    assert list(EXAMPLES) == ["fastbert_hf", "Transformers", *of_others]


def test_fastbert_hf(tmp_path, monkeypatch):
    folder = tmp_path / "fastbert-model"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["the", "film", "is", "good", "not", "bad"]]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    model = FastBertForSequenceClassification(FastBertConfig(BertConfig(vocab_size=len(words), **sizes), num_labels=2))
    model.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    answers = execute("fastbert_hf")["answers"]
    batch = tokenizer(["the film is good", "not bad"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        want = model.eval()(batch["input_ids"], batch["attention_mask"], speed=0.5)
    assert torch.equal(answers.exit_layer, want.exit_layer)
    torch.testing.assert_close(answers.logits, want.logits, rtol=1e-4, atol=1e-4)


def test_transformers(tmp_path, monkeypatch):
    folder = tmp_path / "my-classifier"
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = dict(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    answers = execute("Transformers")["answers"]
    want = pipeline("text-classification", model=model, tokenizer=tokenizer)(["the film is good", "not bad"])
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in want]
    assert [answer["score"] for answer in answers] == pytest.approx([answer["score"] for answer in want], abs=1e-5)


@pytest.mark.parametrize("name", ["fastbert", "fastplm"])
def test_the_packages(name, tmp_path, monkeypatch):
    with imported(name, tmp_path) as package:
        small = register_configuration(package, tmp_path, hidden_act="gelu", vocab_path="google_uncased_en_vocab.txt")
        known = package.config.MODEL_CONFIG_FILE
        monkeypatch.setitem(known, "google_bert_base_en", known[small])
        model = package.FastBERT("google_bert_base_en", labels=["bad", "good"], is_load=False)
        spread_weights(model)
        torch.save(model.state_dict(), tmp_path / "model.bin")
        monkeypatch.chdir(tmp_path)
        names = execute(name)
        texts = ["the film is good", "not bad"]
        assert names["answers"] == [model(text, speed=0.5) for text in texts]
        assert names["answers"][0] == (names["label"], names["layers"])


def test_the_script(tmp_path):
    with imported("fastbert", tmp_path):
        model = ScriptClassifier().eval()
        want = copy.deepcopy(model)
        names = execute("run_fastbert.py", model=model, src=IDS * VALID, mask=VALID)
        with torch.inference_mode():
            torch.testing.assert_close(names["logits"], want(IDS * VALID, None, VALID)[1], rtol=1e-4, atol=1e-4)


def test_bitvoyage():
    model = BranchyBert().eval()
    want = copy.deepcopy(model)
    model.fastbert_zero_undecided = True
    batch = {"input_ids": IDS * VALID, "attention_mask": VALID}
    names = execute("BitVoyage/FastBERT", model=model, **batch)
    with torch.inference_mode():
        probabilities, layer, uncertainties = want(**batch, inference=True, inference_speed=0.5)
    torch.testing.assert_close(names["probabilities"], probabilities, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(names["uncertainties"], uncertainties, rtol=1e-4, atol=1e-4)
    assert names["last_layer"] == layer


def test_deebert():
    model = HighwayModel().eval()
    want = copy.deepcopy(model).set_thresholds(*[0.3] * 4)
    batch = {"input_ids": IDS * VALID, "attention_mask": VALID}
    names = execute("DeeBERT", model=model, **batch)
    with torch.inference_mode():
        logits, *_, exit_layers = want(**batch)
    torch.testing.assert_close(names["logits"], logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(names["exit_layers"], exit_layers)
