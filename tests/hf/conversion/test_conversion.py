"""Converted models against the originals: the packages themselves, and BitVoyage's model written out here."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.conversion import ConversionError, convert_checkpoint, detect_format, uer
from fastbert_hf.conversion.comparison import compare
from helpers.uer_checkpoints import LENGTH, SPEEDS, TEXTS, make_checkpoint


@pytest.fixture(scope="module")
def fastbert(tmp_path_factory):
    return make_checkpoint("fastbert", tmp_path_factory.mktemp("fastbert"))


def convert(made, folder, **options):
    options = {"vocabulary": made["vocabulary"], "settings": [made["settings"]], **options}
    return convert_checkpoint(made["checkpoint"], folder, **options)


def changed(made, tmp_path, change):
    """The same with a checkpoint to whose state dict `change` was done."""
    state = torch.load(made["checkpoint"])
    state = change(state) or state
    torch.save(state, tmp_path / "changed.bin")
    return made | {"checkpoint": tmp_path / "changed.bin"}


def all_logits(folder, ids, segments, **options):
    model = FastBertForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return model(ids, (segments > 0).long(), (segments - 1).clamp(min=0), output_all_exits=True, **options)


def assert_answers_of(made, folder):
    output = all_logits(folder, made["ids"], made["segments"])
    torch.testing.assert_close(output.all_logits, made["logits"], rtol=0, atol=3e-5)
    for speed, layers in zip(SPEEDS, made["exits"], strict=True):
        assert all_logits(folder, made["ids"], made["segments"], speed=speed).exit_layer.tolist() == layers.tolist()


@pytest.mark.parametrize("package", ["fastbert", "fastplm"])
def test_a_package_and_the_converted_model_give_the_same_answers(package, request, tmp_path):
    made = request.getfixturevalue("fastbert") if package == "fastbert" else make_checkpoint(package, tmp_path)
    assert len(set(made["exits"].flatten().tolist())) > 1  # texts leave early or late, so the exits mean something
    report = convert(made, tmp_path / "out", format=package, label_names=["a", "b", "c"])
    assert_answers_of(made, tmp_path / "out")
    assert report.comparison.equal_exits == 1 and len(report.comparison.layers) == 3
    (residual,) = (note for note in report.notes if note.startswith("LayerNorm"))
    assert 0 < float(re.search(r"at most 1 \+ (\S+)$", residual)[1]) < 1e-5
    for layer in report.comparison.layers:
        assert 0 < layer.logits_float64 < 3e-5 and 0 < layer.logits < 5e-5 and 0 < layer.uncertainty < 1e-5

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text, ids in zip(TEXTS, made["ids"].tolist(), strict=True):
        own = tokenizer(text, truncation=True, max_length=LENGTH)
        assert own["input_ids"] + [0] * (LENGTH - len(own["input_ids"])) == ids
        assert set(own["token_type_ids"]) == {0}
    assert tokenizer.model_max_length == 512
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    texts = [text for text in TEXTS if text]
    assert set(predict(model, tokenizer, texts, speed=0.5, max_length=LENGTH).label_names) <= {"a", "b", "c"}


def test_the_report_names_every_parameter_once(fastbert, tmp_path):
    report = convert(fastbert, tmp_path / "out")
    state = torch.load(fastbert["checkpoint"])
    assert report.mapped.keys() | report.left_out.keys() == state.keys()
    assert not report.mapped.keys() & report.left_out.keys()
    assert all(name.startswith("kernel.target.") for name in report.left_out) and len(report.left_out) == 10
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sorted(report.mapped.values()) == sorted(name for name, _ in model.named_parameters())
    assert report.format == "fastbert" and report.detected and report.tokenizer
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["comparison"]["equal_exits"] == 1 and written["notes"] == list(report.notes)
    assert model.config.converted_from["format"] == "fastbert"
    assert any("without [SEP]" in note for note in model.config.converted_from["notes"])


@pytest.mark.parametrize(
    ("format", "pieces", "types"),
    [
        ("fastbert", ["[CLS]", "good", "[SEP]", "bad"], [0, 0, 0, 0]),
        ("fastplm", ["[CLS]", "good", "[SEP]", "bad", "[SEP]"], [0, 0, 0, 1, 1]),
    ],
)
def test_pairs_become_tokens_as_the_format_has_them(fastbert, tmp_path, format, pieces, types):
    convert(fastbert, tmp_path / "out", format=format)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    pair = tokenizer("good", "bad")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == pieces and pair["token_type_ids"] == types


def test_second_texts_have_the_row_of_segment_2(fastbert, tmp_path):
    state = torch.load(fastbert["checkpoint"])
    report = convert(fastbert, tmp_path / "out")
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    table = model.backbone.embeddings.token_type_embeddings.weight
    assert torch.equal(table, state["kernel.embedding.segment_embedding.weight"][1:])
    assert any("row 0 (padding) is left out" in note for note in report.notes)


def test_the_authors_script_has_the_same_parameters_under_shorter_names(fastbert, tmp_path):
    def shorten(state):
        short = {name.removeprefix("kernel."): value for name, value in state.items() if ".target." not in name}
        return {f"module.{name}": value for name, value in short.items()}

    report = convert(changed(fastbert, tmp_path, shorten), tmp_path / "out")
    assert report.format == "script" and not report.left_out
    assert_answers_of(fastbert, tmp_path / "out")
    assert all(not name.startswith("module.") for name in report.mapped)


def test_half_precision_is_read_and_saved_in_single(fastbert, tmp_path):
    convert(changed(fastbert, tmp_path, lambda state: {n: v.half() for n, v in state.items()}), tmp_path / "out")
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    output = all_logits(tmp_path / "out", fastbert["ids"], fastbert["segments"])
    assert 0 < (output.all_logits - fastbert["logits"]).abs().max() < 0.1


def test_the_comparison_sees_a_wrong_parameter(fastbert, tmp_path):
    """A difference that it would not see could not have been reported either."""
    state, settings = torch.load(fastbert["checkpoint"]), json.loads(fastbert["settings"].read_text())
    original = uer.read(state, settings, "fastbert", {})
    model = FastBertForSequenceClassification(original.config)
    names = ["heads.1.key.weight", "backbone.encoder.layer.1.attention.self.key.weight"]
    names += ["backbone.embeddings.token_type_embeddings.weight", "backbone.encoder.layer.2.output.LayerNorm.weight"]
    for name in names:
        parameters = {other: value.float() for other, value in original.parameters.items()}
        parameters[name] = parameters[name].flip(0)
        model.load_state_dict(parameters)
        worst = [layer.logits_float64 for layer in compare(model.eval(), original).layers]
        assert max(worst) > 1e-2, name
        assert worst[0] < 3e-5 or "embeddings" in name  # what lies behind a layer does not change it


def test_equivalent_eps_is_the_minimum_of_the_squared_errors():
    deviations = torch.tensor([0.05, 0.06, 0.7, 1.3, 2.0], dtype=torch.float64)
    eps = 1e-3

    def error(candidate):
        return (((deviations + eps) / (deviations**2 + candidate).sqrt() - 1) ** 2).sum()

    best = uer.equivalent_eps(deviations, eps)
    grid = torch.logspace(-6, -2, 4001, dtype=torch.float64)
    assert math.isclose(best, float(grid[torch.stack([error(c) for c in grid]).argmin()]), rel_tol=0.05)
    assert math.isfinite(uer.equivalent_eps(torch.zeros(3), 1e-6))


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "mean"}, "pooling 'mean': .* look at the first token"),
        ({"encoder": "gpt"}, "fastplm's GPT"),
        ({"encoder": "albert"}, "an ALBERT"),
        ({"encoder": "lstm"}, "encoder 'lstm'"),
        ({"heads_num": 5}, "heads_num 5 does not divide the hidden size 32"),
        ({"heads_num": "4"}, "heads_num '4' does not divide"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not known"),
        ({"layers_num": 12}, "layers_num is 3 in the checkpoint, but 12 in the configuration"),
        ({"feedforward_size": 64}, "feedforward_size is 48 in the checkpoint"),
    ],
)
def test_configurations_that_do_not_match_are_refused(fastbert, tmp_path, fields, message):
    settings = json.loads(fastbert["settings"].read_text()) | fields
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


def test_known_sizes_need_no_configuration():
    assert uer.KNOWN_MODELS[768, 12, 3072] == 12 and uer.KNOWN_MODELS[312, 4, 1200] == 12


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


def test_blank_lines_of_a_vocabulary_keep_their_place(fastbert, tmp_path):
    pieces = fastbert["vocabulary"].read_text(encoding="utf-8").splitlines()
    pieces[7] = "\u2028"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    convert(fastbert, tmp_path / "out", vocabulary=tmp_path / "vocab.txt")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("good") == pieces.index("good") and len(tokenizer) == len(pieces)


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
