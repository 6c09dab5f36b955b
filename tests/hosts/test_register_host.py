"""register_host: the example of docs/hosts.md, odd models, and what is said to wrong use."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import fastbert_kernels
from fastbert_kernels.hosts import AttentiveHead, PooledHead, Rule, find_host
from helpers.patched import only_the_fast_path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "hosts.md"
WIDTH, LABELS = 16, 3


def test_the_documented_example_runs_and_is_short():
    own = DOCUMENT.read_text().partition("## Your own model\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", own, flags=re.DOTALL)
    assert code.count("\n") < 60
    names: dict = {"__name__": "example"}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    assert fastbert_kernels.is_patched(names["model"])
    uncertain = names["expected"].amax(dim=1)
    assert uncertain.unique().numel() == len(uncertain)  # not eight times the same answer


class Block(nn.Module):
    """Not of the BERT family: gated, without residual around the attention, and with ALiBi-like distances."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden, mask):
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        place = torch.arange(hidden.shape[1])
        distance = (place[:, None] - place).abs()
        scores = query @ key.transpose(1, 2) - 0.3 * distance.to(hidden.dtype)
        attended = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1) @ value
        return self.norm(attended + self.gate(hidden).sigmoid() * hidden)


class Model(nn.Module):
    """Heads of all kinds, none behind the second layer; `every` computes all of them, without leaving anybody out."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.linear = nn.Linear(WIDTH, LABELS)
        self.pooler = nn.ModuleList([nn.Linear(WIDTH, 12), nn.Linear(12, LABELS)])
        names = ("projection", "query", "key", "value", "attention_output", "dense")
        self.attentive = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.attentive["classifier"] = nn.Linear(WIDTH, LABELS)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, (1 if "blocks" in name else 2) / parameter.shape[-1] ** 0.5)

    def heads(self):
        return [
            PooledHead([self.linear]),
            None,
            PooledHead(self.pooler, pooling="mean", activation="relu"),
            AttentiveHead(**self.attentive, num_attention_heads=4, mlp_activation="identity"),
            PooledHead([self.linear], pooling="max"),
        ]

    def attend(self, hidden):
        part = self.attentive
        z = part["projection"](hidden).tanh()
        query, key, value = (part[name](z).unflatten(1, (4, -1)).transpose(0, 1) for name in ("query", "key", "value"))
        attended = nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])[0, :, 0].flatten()
        return part["classifier"](part["dense"](part["attention_output"](attended)))

    def every(self, ids):
        """Logits [5, N] of one text without padding, by the heads one by one; None behind the second layer."""
        hidden, logits = self.embedding(ids)[None], []
        heads = [
            lambda rows: self.linear(rows[0]),
            None,
            lambda rows: self.pooler[1](self.pooler[0](rows.mean(dim=0)).relu()),
            self.attend,
            lambda rows: self.linear(rows.amax(dim=0)),
        ]
        for block, head in zip(self.blocks, heads, strict=True):
            hidden = block(hidden, torch.ones(1, len(ids), dtype=torch.bool))
            logits.append(None if head is None else head(hidden[0]))
        return logits

    def forward(self, ids, speed=0.5):
        """One text after another, without padding."""
        return leave([self.every(row[row > 0]) for row in ids], speed)


def leave(texts, speed):
    """Logits [B, N], uncertainty [B] and exit layers [B] at `speed`, from the logits of every head, text by text."""
    answers = []
    for every in texts:
        for number, logits in enumerate(every, start=1):
            if logits is not None and (uncertainty_of(logits) < speed or number == len(every)):
                answers.append((logits, uncertainty_of(logits), number))
                break
    logits, uncertainty, layers = zip(*answers, strict=True)
    return torch.stack(logits), torch.stack(uncertainty), torch.tensor(layers)


def uncertainty_of(logits):
    p = logits.double().softmax(dim=-1)
    return torch.special.entr(p).sum(dim=-1) / torch.tensor(logits.shape[-1]).double().log()


DESCRIPTION = dict(
    layers=lambda model: model.blocks,
    heads=Model.heads,
    call_layer=lambda block, hidden, valid: block(hidden, valid),
    forward=lambda model, run, ids, speed=0.5: (
        lambda results: (results.logits, results.uncertainty, results.exit_layer)
    )(run(model.embedding(ids), ids > 0, speed)),
)


def make_ids(lengths, left=False):
    longest = max(lengths)
    valid = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return torch.randint(1, 50, valid.shape) * (valid.flip(1) if left else valid)


@torch.inference_mode()
def run(model, *arguments, **options):
    return model(*arguments, **options)


@pytest.fixture(scope="module", params=[False, True], ids=["right", "left"])
def five_hundred(request):
    """A model, a batch, and the logits of all its heads for each text in float32 and in float64."""
    model = Model().eval()
    ids = make_ids(torch.randint(1, 24, (500,)).tolist(), left=request.param)
    precise = copy.deepcopy(model).double()
    with torch.inference_mode():
        return model, ids, *([each.every(row[row > 0]) for row in ids] for each in (model, precise))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("speed", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_answers_are_those_of_the_unpatched_model(five_hundred, count_ties, backend, speed):
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model, ids, plain_every, precise_every = five_hundred
    patched = fastbert_kernels.patch(copy.deepcopy(model), backend=backend)
    with only_the_fast_path(patched):
        logits, uncertainty, layers = run(patched, ids, speed)
    precise, plain = leave(precise_every, speed), leave(plain_every, speed)
    assert all(map(torch.equal, run(model, ids[:20], speed), (each[:20] for each in plain)))
    same = (layers == precise[2]) & (plain[2] == precise[2])
    count_ties((~same).sum(), 500)
    for index in (~same).nonzero().flatten().tolist():
        early = [logits for logits in plain_every[index][:-1] if logits is not None]
        assert min(abs(uncertainty_of(logits) - speed) for logits in early) < 1e-5
    assert layers.unique().numel() >= (3 if speed in (0.2, 0.5) else 1)
    for got, own, want in zip((logits, uncertainty), plain, precise, strict=False):
        assert (got - want)[same].abs().mean() <= 2 * (own - want)[same].abs().mean()
        torch.testing.assert_close(got[same], own[same].float(), rtol=0, atol=1e-4)


def test_a_speed_for_each_sample_and_full_depth():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model = fastbert_kernels.patch(Model().eval())
    ids = make_ids([5, 1, 9, 9])
    _, uncertainty, layers = run(model, ids, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert layers.tolist() == [1, 5, 1, 5]
    full = run(model, ids, None)
    assert full[2].tolist() == [5] * 4
    torch.testing.assert_close(full[1][[1, 3]], uncertainty[[1, 3]])
    empty = run(model, torch.zeros(0, 7, dtype=torch.int64))
    assert empty[0].shape == (0, LABELS) and empty[2].dtype == torch.int64


def test_a_rule():
    def forward(model, run, ids, rule):
        return run(model.embedding(ids), ids > 0, 1.0, rule).exit_layer

    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "forward": forward})
    model, ids = fastbert_kernels.patch(Model().eval()), make_ids([5, 1, 9, 9])
    assert run(model, ids, Rule(layer_speeds=(None, None, 1, None, None))).tolist() == [3] * 4
    assert run(model, ids, Rule(criterion="patience", parameter=4)).tolist() == [5] * 4


def test_layers_see_batches_that_shrink_in_both_directions():
    shapes = []

    def call_layer(block, hidden, valid):
        shapes.append(tuple(hidden.shape[:2]))
        assert valid.sum(dim=1).amax() == hidden.shape[1]
        return block(hidden, valid)

    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "call_layer": call_layer})
    run(fastbert_kernels.patch(Model().eval()), make_ids([20, 3, 7, 7]), torch.tensor([1.0, 0, 0, 0]))
    assert shapes == [(4, 20)] + [(3, 7)] * 4


def test_a_nan_touches_one_sample():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model = fastbert_kernels.patch(Model().eval())
    ids = make_ids([4, 9, 5]).clamp(max=48)
    before = run(model, ids, 0.5)
    with torch.no_grad():
        model.embedding.weight[49] = torch.nan
    ids[1, 2] = 49
    after = run(model, ids, 0.5)
    assert after[1][1].isnan() and after[2][1] == 5
    for got, want in zip(after, before, strict=True):
        torch.testing.assert_close(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_run_in_the_precision_of_the_weights(dtype):
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model = Model().eval()
    ids = make_ids([3, 12, 8])
    want = run(copy.deepcopy(model).double(), ids, 0.0)[0]
    got = run(fastbert_kernels.patch(model.to(dtype)), ids, 0.0)[0]
    assert (got - want).abs().max() < (1e-5 if dtype == torch.float64 else 0.5)  # float32 results; logits of about 5


def test_unpatch_copies_and_pickles():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model, other, ids = Model().eval(), Model(1).eval(), make_ids([5, 8, 2])
    attributes, others = dict(model.__dict__), dict(other.__dict__)
    state = pickle.dumps(model.state_dict())
    before = run(model, ids)
    patched = run(fastbert_kernels.patch(model), ids)
    assert other.__dict__ == others

    copied = copy.deepcopy(model)
    assert fastbert_kernels.is_patched(copied)
    with torch.no_grad():
        for parameter in copied.blocks.parameters():
            parameter.mul_(1.5)  # its own layers, not those of the model that it is a copy of
    assert not torch.allclose(run(copied, ids, 0.0)[0], run(model, ids, 0.0)[0], atol=1e-2)
    torch.testing.assert_close(run(model, ids)[0], patched[0], rtol=0, atol=0)
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)

    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and pickle.dumps(model.state_dict()) == state
    for got, want in zip(run(pickle.loads(pickle.dumps(model)), ids), before, strict=True):
        assert torch.equal(got, want)


def test_changed_heads_are_noticed():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model, ids = fastbert_kernels.patch(Model().eval()), make_ids([5, 8, 2])
    run(model, ids)
    with torch.no_grad():
        model.linear.bias.add_(3 * torch.randn(LABELS))
        model.blocks[0].gate.weight.mul_(2)
    got = run(model, ids)
    want = run(fastbert_kernels.unpatch(model), ids)
    assert torch.equal(got[2], want[2])
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-4)


def test_a_predicate_and_the_latest_registration_first():
    first = fastbert_kernels.register_host(lambda model: hasattr(model, "blocks"), **DESCRIPTION, name="has blocks")
    second = fastbert_kernels.register_host(Model, **DESCRIPTION)
    assert find_host(Model()) is second
    fastbert_kernels.unregister_host(second)
    assert find_host(Model()) is first
    with pytest.raises(ValueError, match=r"no host '.*Model' is registered"):
        fastbert_kernels.unregister_host(second)
    fastbert_kernels.unregister_host(first)
    with pytest.raises(TypeError, match="register_host makes another model"):
        find_host(Model())


def test_registering_twice_is_refused():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    with pytest.raises(ValueError, match=r"Model' is registered already: unregister_host"):
        fastbert_kernels.register_host(Model, **DESCRIPTION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": int}, "derived from torch.nn.Module"),
        ({"kind": "Model"}, "kind of register_host must be a function"),
        ({"layers": []}, "layers of register_host must be a function"),
        ({"heads": None}, "heads of register_host must be a function"),
        ({"call_layer": lambda layer, hidden: hidden}, "call_layer of register_host must take 3 arguments"),
        ({"forward": lambda model: None}, "forward of register_host must take 2 arguments"),
    ],
)
def test_wrong_registrations_are_refused(change, message):
    arguments = {"kind": Model, **DESCRIPTION, **change}
    with pytest.raises(TypeError, match=message):
        fastbert_kernels.register_host(arguments.pop("kind"), **arguments)


class MyLinear(nn.Linear):
    pass


def with_attentive(**changes):
    return lambda model: [AttentiveHead(**{**model.attentive, "num_attention_heads": 4, **changes})]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": lambda model: []}, TypeError, "one or more torch modules"),
        ({"layers": lambda model: [torch.tanh] * 5}, TypeError, "one or more torch modules"),
        ({"heads": lambda model: model.heads()[:4]}, ValueError, "as many heads as layers, 5, not 4"),
        ({"heads": lambda model: [*model.heads()[:4], None]}, ValueError, "last layer must have a head"),
        ({"heads": lambda model: [model.linear] * 5}, TypeError, "PooledHead, AttentiveHead or None, not.*Linear"),
        ({"heads": lambda model: [PooledHead([MyLinear(2, 3)])]}, TypeError, "must be a torch.nn.Linear, not a MyLin"),
        ({"heads": lambda model: [PooledHead([nn.Linear(2, 3, bias=False)])]}, ValueError, "has no bias"),
        ({"heads": lambda model: [PooledHead([])]}, ValueError, "1 to 3 layers, not 0"),
        (
            {"heads": lambda model: [PooledHead([nn.Linear(2, 3)], pooling="last")]},
            ValueError,
            "unknown pooling 'last'",
        ),
        ({"heads": lambda model: [PooledHead([nn.Linear(2, 1)])]}, ValueError, "PooledHead must have two labels or mo"),
        (
            {"heads": lambda model: [PooledHead([nn.Linear(4, 5), nn.Linear(6, 3)])]},
            ValueError,
            r"layers\[1\] of PooledHead must be 5 -> any, not Linear\(in_features=6",
        ),
        *(
            (
                {"heads": with_attentive(num_attention_heads=heads)},
                ValueError,
                f"must divide its width 16, not {heads!r}",
            )
            for heads in (3, 0, -1, 2.0, "4", True)
        ),
        ({"heads": with_attentive(key=nn.Linear(WIDTH, 8))}, ValueError, "key of AttentiveHead must be 16 -> 16, not"),
        ({"heads": with_attentive(classifier=nn.Linear(8, 3))}, ValueError, "classifier .* must be 16 -> any, not"),
        ({"heads": with_attentive(classifier=nn.Linear(WIDTH, 1))}, ValueError, "AttentiveHead must have two labels"),
        (
            {"heads": lambda model: [*model.heads()[:4], PooledHead([nn.Linear(WIDTH, 4)])]},
            ValueError,
            r"same number of labels, not \[3, 4\]",
        ),
    ],
)
def test_wrong_descriptions_are_refused_by_patch(change, error, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, **change})
    model = Model()
    with pytest.raises(error, match=message):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)


def test_another_precision_than_that_of_the_weights_is_refused():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    with pytest.raises(ValueError, match=r"model.to\(torch.bfloat16\)"):
        fastbert_kernels.patch(Model(), dtype=torch.bfloat16)
    assert fastbert_kernels.is_patched(fastbert_kernels.patch(Model(), dtype=torch.float32))


def test_weights_moved_to_another_precision_are_left_to_the_model():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model, ids = fastbert_kernels.patch(Model().eval(), dtype=torch.float32), make_ids([3, 5])
    run(model, ids)
    model.to(torch.bfloat16)
    with pytest.warns(RuntimeWarning, match=r"own forward answers.*dtype=torch.float32 is not .*torch.bfloat16"):
        got = run(model, ids)
    assert all(map(torch.equal, got, run(fastbert_kernels.unpatch(copy.deepcopy(model)), ids)))
    model.to(torch.float32)
    with only_the_fast_path(model):
        run(model, ids)


@pytest.mark.parametrize(
    ("forward", "error", "message"),
    [
        (lambda model, run, ids: run(model.embedding(ids[0]), ids > 0), ValueError, r"hidden must be \[batch, length"),
        (lambda model, run, ids: run(model.embedding(ids), ids), TypeError, "valid must be a bool tensor"),
        (lambda model, run, ids: run(model.embedding(ids), ids[:, :1] > 0), ValueError, "valid must have shape"),
        (
            lambda model, run, ids: run(model.embedding(ids), ids > 50),
            ValueError,
            r"row\(s\) \[0, 1\]",
        ),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, 1.5), ValueError, r"\[0, 1\], not 1.5"),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, float("nan")), ValueError, r"\[0, 1\], not nan"),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, torch.rand(3)), ValueError, "or have shape"),
    ],
)
def test_wrong_calls_of_run_are_refused(forward, error, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "forward": forward})
    model = fastbert_kernels.patch(Model().eval())
    with pytest.raises(error, match=message):
        run(model, make_ids([3, 5]))


@pytest.mark.parametrize(
    ("call_layer", "message"),
    [
        (lambda block, hidden, valid: (block(hidden, valid),), "not tuple"),
        (lambda block, hidden, valid: hidden[:, 0], "not "),
    ],
)
def test_a_layer_that_returns_something_else_is_named(call_layer, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "call_layer": call_layer})
    model = fastbert_kernels.patch(Model().eval())
    with pytest.raises(TypeError, match=f"as the Block got them, {message}"):
        run(model, make_ids([3, 5]))


def test_not_implemented_leaves_the_call_to_the_model():
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "forward": lambda model, run, ids: NotImplemented})
    model, ids = Model().eval(), make_ids([3, 5])
    want = run(model, ids)
    assert torch.equal(run(fastbert_kernels.patch(model), ids)[0], want[0])


def test_a_plain_classifier_is_told_how_to_get_heads():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(TypeError, match=r"no exit heads.*fastbert train --backbone.*from_backbone.*fastbert distill"):
        fastbert_kernels.patch(BertForSequenceClassification(config))
