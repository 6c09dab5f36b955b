"""What is not converted, and why."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from fastbert_hf.conversion import ConversionError, convert_checkpoint, detect_format
from helpers.refusals import refused
from helpers.uer_checkpoints import convert


def drop(name):
    return lambda state: {other: value for other, value in state.items() if other != name}


def put(name, *shape):
    return lambda state: state.update({name: torch.zeros(*shape)})


HEAD = "classifiers.1.output_layer_0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(HEAD), f"not a checkpoint of the format fastbert: missing {HEAD}"),
        (drop("kernel.embedding.word_embedding.weight"), "missing kernel.embedding.word_embedding.weight"),
        (put("classifiers.3.output_layer_0.weight", 128, 32), "unexpected classifiers.3.output_layer_0.weight"),
        (put("kernel.subencoder.weight", 3), "unexpected kernel.subencoder.weight"),
        (
            put("kernel.encoder.transformer.4.layer_norm_1.gamma", 32),
            r"missing classifiers.\{3,4\}.output_layer_0.bias, .*, kernel.encoder.transformer.3.layer_norm_1.gamma, "
            r".*, kernel.encoder.transformer.\{3,4\}.self_attn.linear_layers.2.weight$",
        ),
        (put("more.weight", 1), "unexpected more.weight$"),
        (put(HEAD, 128, 31), rf"{HEAD} is \[128, 31\], but \[128, 32\] follows from"),
        (put("classifiers.2.output_layer_2.bias", 4), r"output_layer_2.bias is \[4\], but \[3\]"),
        (put("kernel.embedding.segment_embedding.weight", 2, 32), "has 2 rows, not the 3"),
        (put(HEAD, 128 * 32), r"is \[4096\], but \[128, 32\]"),
        (put("kernel.encoder.linear.weight", 8, 4), "unexpected kernel.encoder.linear.weight"),
        (put("kernel.encoder.transformer.self_attn.final_linear.bias", 4), "an ALBERT"),
        (put("kernel.encoder.conv_1.weight", 4), "a GCNN"),
        (
            lambda s: {n: v for n, v in s.items() if not re.search("output_layer_0|self_atten", n)},
            "fastplm's GPT",
        ),
        (lambda s: {n.replace("kernel.", "model."): v for n, v in s.items()}, "are of no format known here"),
        (lambda s: s | {HEAD: s[HEAD] / 0}, f"NaN or inf in {HEAD}"),
        (lambda s: {"model": s, "epoch": 3}, "not a plain state dict: model, epoch are not tensors under a name"),
        (lambda s: {3: s[HEAD]}, "not a plain state dict: 3 is not a tensor under a name"),
        (lambda s: list(s.values()), "holds a list, not the names and tensors"),
        (lambda s: {}, "holds a dict, not the names and tensors"),
    ],
)
def test_checkpoints_that_do_not_match_are_refused(fastbert, tmp_path, change, message):
    state = torch.load(fastbert["checkpoint"])
    result = change(state)
    torch.save(state if result is None else result, tmp_path / "changed.bin")
    with pytest.raises(ConversionError, match=message):
        convert(fastbert | {"checkpoint": tmp_path / "changed.bin"}, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.bin"]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    torch.save({"kernel.a": Payload(tmp_path / "ran")}, tmp_path / "evil.bin")
    with pytest.raises(ConversionError, match="asks for .*open.*can run code, so it is not loaded"):
        convert_checkpoint(tmp_path / "evil.bin", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "module.bin")
    with pytest.raises(ConversionError, match=r"asks for torch.nn.modules.linear.Linear.*save model.state_dict\(\)"):
        convert_checkpoint(tmp_path / "module.bin", tmp_path / "out")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.bin").write_text("hello")
    (tmp_path / "empty.bin").write_bytes(b"")
    torch.save({"a": torch.zeros(3)}, tmp_path / "cut.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "cut.bin").read_bytes()[:200])
    for name in ("text.bin", "empty.bin", "cut.bin", "absent.bin", "."):
        with pytest.raises(ConversionError) as caught:
            convert_checkpoint(tmp_path / name, tmp_path / "out")
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@refused(
    ({"pooling": "mean"}, "pooling 'mean': .* look at the first token"),
    ({"encoder": "gpt"}, "fastplm's GPT"),
    ({"encoder": "albert"}, "an ALBERT"),
    ({"encoder": "lstm"}, "encoder 'lstm'"),
    ({"heads_num": 5}, "heads_num 5 does not divide the hidden size 32"),
    ({"heads_num": "4"}, "heads_num '4' does not divide"),
    ({"hidden_act": "silu"}, "hidden_act 'silu' is not known"),
    ({"layers_num": 12}, "layers_num is 3 in the checkpoint, but 12 in the configuration"),
    ({"feedforward_size": 64}, "feedforward_size is 48 in the checkpoint"),
)
def test_configurations_that_do_not_match_are_refused(fastbert, tmp_path, changes, message):
    settings = json.loads(fastbert["settings"].read_text()) | changes
    (tmp_path / "other.json").write_text(json.dumps(settings))
    with pytest.raises(ConversionError, match=message):
        convert(fastbert, tmp_path / "out", settings=[tmp_path / "other.json"])
    assert not (tmp_path / "out").exists()


def test_what_the_checkpoint_does_not_say_has_to_be_given(fastbert, tmp_path):
    with pytest.raises(ConversionError, match="how many attention heads has this model"):
        convert(fastbert, tmp_path / "out", settings=[])
    (tmp_path / "two.json").write_text('{"heads_num": 2}')
    with pytest.raises(ConversionError, match="heads_num is 2, but 4 in another configuration"):
        convert(fastbert, tmp_path / "out", settings=[fastbert["settings"], tmp_path / "two.json"])
    for content in ("[]", "{", "\xff"):
        (tmp_path / "two.json").write_text(content, encoding="latin-1")
        with pytest.raises(ConversionError, match="two.json: "):
            convert(fastbert, tmp_path / "out", settings=[tmp_path / "two.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pieces: pieces[:-1], "word pieces, but the model's word table has"),
        (lambda pieces: [*pieces[:-1], "good"], "named twice: good"),
        (lambda pieces: ["x" if piece == "[SEP]" else piece for piece in pieces], r"lacks \[SEP\]"),
        (lambda pieces: [pieces[1], pieces[0], *pieces[2:]], r"\[PAD\] must be the first piece, not number 1"),
    ],
)
def test_vocabularies_that_do_not_match_are_refused(fastbert, tmp_path, change, message):
    pieces = fastbert["vocabulary"].read_text(encoding="utf-8").splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(change(pieces)), encoding="utf-8")
    with pytest.raises(ConversionError, match=message):
        convert(fastbert, tmp_path / "out", vocabulary=tmp_path / "vocab.txt")


def test_other_refusals(fastbert, tmp_path):
    with pytest.raises(ConversionError, match="unknown format 'onnx'"):
        convert(fastbert, tmp_path / "out", format="onnx")
    with pytest.raises(
        ConversionError,
        match="not a checkpoint of the format bitvoyage: it has none of its names, but such as classifiers.0",
    ):
        convert(fastbert, tmp_path / "out", format="bitvoyage")
    with pytest.raises(ConversionError, match=r"has 3 classes, but there are names for 2 \(--label\)"):
        convert(fastbert, tmp_path / "out", label_names=["a", "b"])
    for names in (["a", "b", "a"], ["a", " ", "b"]):
        with pytest.raises(ConversionError, match="names .--label. that differ and are not blank, not"):
            convert(fastbert, tmp_path / "out", label_names=names)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(ConversionError, match="there: exists"):
        convert(fastbert, tmp_path / "there")
    assert (tmp_path / "there" / "file").read_text() == "mine"
    with pytest.raises(ConversionError, match="of no format known here.*from_backbone"):
        detect_format({"bert.embeddings.word_embeddings.weight": 0})
