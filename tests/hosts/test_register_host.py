"""register_host: the example of docs/hosts.md, and a model with heads of all kinds."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from registered_model import DESCRIPTION, LABELS, Model, leave, make_ids, run, uncertainty_of

import fastbert_kernels
from fastbert_kernels.hosts import Rule, find_host
from helpers.accuracy import assert_mean_error_is_like
from helpers.patched import only_the_fast_path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "hosts.md"


def test_the_documented_example_runs_and_is_short():
    own = DOCUMENT.read_text().partition("## Your own model\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", own, flags=re.DOTALL)
    assert code.count("\n") < 60
    names: dict = {"__name__": "example"}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    assert fastbert_kernels.is_patched(names["model"])
    uncertain = names["expected"].amax(dim=1)
    assert uncertain.unique().numel() == len(uncertain)  # not eight times the same answer


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
        assert_mean_error_is_like(got[same], own[same], want[same])
        torch.testing.assert_close(got[same], own[same].float(), rtol=1e-4, atol=1e-4)


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
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)


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


def test_weights_moved_to_another_precision_are_left_to_the_model():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    model, ids = fastbert_kernels.patch(Model().eval(), dtype=torch.float32), make_ids([3, 5])
    run(model, ids)
    model.to(torch.bfloat16)
    with pytest.warns(RuntimeWarning, match=r"own forward answers.*torch.float32 is not available.*torch.bfloat16"):
        got = run(model, ids)
    assert all(map(torch.equal, got, run(fastbert_kernels.unpatch(copy.deepcopy(model)), ids)))
    model.to(torch.float32)
    with only_the_fast_path(model):
        run(model, ids)


def test_not_implemented_leaves_the_call_to_the_model():
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "forward": lambda model, run, ids: NotImplemented})
    model, ids = Model().eval(), make_ids([3, 5])
    want = run(model, ids)
    assert torch.equal(run(fastbert_kernels.patch(model), ids)[0], want[0])
