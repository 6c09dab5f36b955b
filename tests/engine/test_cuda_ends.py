"""Layer ends in one native call against the two ops that they stand for, with stand-ins for the CUDA kernels.

The module with the stand-ins takes the place of the installed one, so all this is in a process of its own.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys

import pytest
import torch

import cmake_builds
import launches
from fastbert_kernels import backends
from fastbert_kernels.engine.cuda_ends import CudaEnds
from fastbert_kernels.engine.layer import NoLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.rule import FULL_DEPTH, Rule
from helpers.criteria import EVERY_CRITERION
from helpers.encoders import attentive, cast, make_batch, pooled, random_loop
from helpers.op_inputs import map_tensors
from helpers.programs import assert_passes_in_its_own_process

HERE = "FASTBERT_TEST_STAND_INS"
STAND_INS = launches.Launches(computing=True) if os.environ.get(HERE) else None
LENGTHS = [7, 1, 30, 3, 0, 2, 33, 9, 4]
DEPTH = 5


@pytest.mark.proof
@pytest.mark.skipif(STAND_INS is not None or cmake_builds.missing() is not None, reason=str(cmake_builds.missing()))
def test_everything_with_stand_ins_in_a_process_of_its_own():
    assert_passes_in_its_own_process(__file__, HERE)


@pytest.fixture
def ops_only(monkeypatch):
    """The loop without native layer ends, as a compiler sees it."""

    def make(loop):
        class Ops(LayerLoop):
            def _cuda_ends(self, state, results):
                return None

        return Ops(loop.layers, loop.heads, loop.backend)

    return make


def make_loop(heads=None):
    plain = random_loop(depth=DEPTH, dtype=torch.float32, backend="cuda")
    return plain if heads is None else LayerLoop(plain.layers, heads, "cuda")


def mixed_heads():
    made = [attentive(), None, pooled(3, pooling="mean"), pooled(16, 3, pooling="max"), attentive()]
    return [None if head is None else cast(head, torch.float32) for head in made]


def assert_same_bits(got, want):
    assert torch.equal(got.exit_layer, want.exit_layer)
    torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got.uncertainty, want.uncertainty, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(STAND_INS is None, reason="needs the stand-ins")
class TestWithStandIns:
    @pytest.mark.parametrize("speed", [0.0, 0.5, 0.8, 2.0, "spread"])
    @pytest.mark.parametrize("heads", [lambda: None, mixed_heads], ids=["attentive", "mixed"])
    def test_bits_of_the_ops(self, poisoned_memory, ops_only, heads, speed):
        loop = make_loop(heads())
        batch = make_batch(LENGTHS, torch.linspace(0, 1, len(LENGTHS)) if speed == "spread" else speed, torch.float32)
        got, want = (one.run(copy.copy(batch), Rule()) for one in (loop, ops_only(loop)))
        assert_same_bits(got, want)
        reference = LayerLoop(loop.layers, loop.heads, "reference").run(copy.copy(batch), Rule())
        torch.testing.assert_close(got.logits, reference.logits, rtol=1e-3, atol=1e-3, equal_nan=True)
        assert speed != "spread" or got.exit_layer.unique().numel() > 2

    @pytest.mark.parametrize("options", [*EVERY_CRITERION, {"layer_speeds": (0.9, None, 0.4, 2.0, None)}], ids=str)
    def test_every_rule(self, poisoned_memory, ops_only, options):
        loop = make_loop()
        batch = make_batch(LENGTHS, torch.linspace(0.1, 1.1, len(LENGTHS)), torch.float32)
        for rule in (Rule(**options), FULL_DEPTH):
            assert_same_bits(loop.run(copy.copy(batch), rule), ops_only(loop).run(copy.copy(batch), rule))

    def test_spans_and_a_second_head_behind_a_layer(self, ops_only):
        """A layer that does nothing gives the memory back that its rows lie in."""
        loop = make_loop()
        layers = [*loop.layers[:2], NoLayer(torch.float32), NoLayer(torch.float32), loop.layers[2]]
        loop = LayerLoop(layers, loop.heads, "cuda")
        batch = make_batch(LENGTHS, torch.linspace(0.1, 1.1, len(LENGTHS)), torch.float32)
        whole = loop.run(copy.copy(batch), Rule())
        assert_same_bits(whole, ops_only(loop).run(copy.copy(batch), Rule()))
        state = loop.start(copy.copy(batch), Rule())
        left = [loop.advance(state, until) for until in (1, 3, 4, DEPTH)]
        rows = torch.cat([some.indices for some in left])
        assert torch.equal(torch.cat([some.exit_layer for some in left]), whole.exit_layer[rows.long()])
        torch.testing.assert_close(
            torch.cat([some.logits for some in left]), whole.logits[rows.long()], rtol=0, atol=0, equal_nan=True
        )

    def test_launches_of_a_layer_end(self):
        loop = make_loop()
        batch = make_batch([5, 9], 1e-6, torch.float32)
        before = STAND_INS.count
        loop.run(copy.copy(batch), Rule())
        assert STAND_INS.count - before == 2 * DEPTH

    def test_weights_written_in_place_are_seen(self):
        loop = make_loop()
        batch = make_batch([5, 9, 30], 0.5, torch.float32)
        before = loop.run(copy.copy(batch), Rule()).logits
        loop.heads[0].tensors.output_weight.mul_(-0.5)
        assert not torch.equal(loop.run(copy.copy(batch), Rule()).logits, before)

    def test_ops_take_over_where_a_head_is_not_for_the_kernels(self, ops_only, monkeypatch):
        """Matrices that lie badly are copied by the ops."""
        heads = make_loop().heads
        weight = heads[1].tensors.projection_weight
        moved = torch.empty(weight.numel() + 1)[1:].view(weight.shape).copy_(weight)
        heads[1] = type(heads[1])(heads[1].tensors._replace(projection_weight=moved))
        loop = make_loop(heads)
        monkeypatch.setattr(CudaEnds, "let_out", None)
        loop.run(make_batch([5, 9], 1e-6, torch.float32), Rule())

    def test_runs_one_within_another(self):
        """Two runs at a time, as of two threads, each with memory of its own."""
        loop, begun, inner = make_loop(), [], []
        batch = make_batch([5, 9, 30], [2.0, 1e-6, 1e-6], torch.float32)
        want = loop.run(copy.copy(batch), Rule())
        layer = loop.layers[1]

        def calling(*arguments):
            if not begun:
                begun.append(True)
                inner.append(loop.run(copy.copy(batch), Rule()))
            return layer(*arguments)

        calling.dtype = torch.float32
        loop.layers[1] = calling
        assert_same_bits(loop.run(copy.copy(batch), Rule()), want)
        assert_same_bits(inner[0], want)

    def test_arguments_are_checked(self):
        """Memory that is too small, of another dtype or width, or in another's place is an error, not an access."""
        module = sys.modules["fastbert_kernels._C"]
        head = make_loop()._cuda_heads.of(make_loop().heads[0])
        hidden = torch.randn(5, 32)

        def arguments():
            own = [hidden, torch.tensor([0, 2, 5], dtype=torch.int32), torch.rand(3), None, None]
            own += [torch.zeros(3, dtype=torch.int32), "entropy", 0, None, 1]
            decided = [torch.empty(3, 3), torch.empty(3), torch.empty(3, 2, dtype=torch.int32)]
            decided += [torch.empty(3, dtype=torch.bool)]
            written = [torch.empty(9, 3), torch.empty(9), torch.empty(9, dtype=torch.int64)]
            room = [torch.empty(6, 32), torch.empty(4, dtype=torch.int32), torch.empty(3, dtype=torch.int32)]
            room += [torch.empty(3), torch.empty(3, 2, dtype=torch.int32), torch.empty(2, dtype=torch.int32)]
            return [head, *own, decided, written, room]

        module.let_out(*arguments())

        def tensors_of(given):
            return [
                x for one in given for x in (one if isinstance(one, list) else [one]) if isinstance(x, torch.Tensor)
            ]

        for one, other in itertools.combinations(range(len(tensors_of(arguments()))), 2):
            given = arguments()
            first, second = (tensors_of(given)[place] for place in (one, other))
            lengths = {len(x) for x in (first, second) if (x.dtype, x.dim()) == (torch.int32, 1)}
            # With one number fewer, cu_seqlens are those of fewer samples, for which all memory has room.
            if (first.shape, first.dtype) != (second.shape, second.dtype) and lengths != {3, 4}:
                exchanged = {id(first): second, id(second): first}
                swapped = map_tensors(lambda x, exchanged=exchanged: exchanged.get(id(x), x), given)
                with pytest.raises((TypeError, ValueError)):
                    module.let_out(*swapped)
        places = [(n,) for n in (1, 2, 3, 6)] + [(n, k) for n, size in ((11, 4), (12, 3), (13, 6)) for k in range(size)]
        smaller, bounds = (lambda x: x[:1] if x.dim() < 2 else x[:, 1:]), (2,)
        for place in places:
            for change in (smaller, torch.Tensor.double, lambda x: x[None]):
                if change is smaller and place == bounds:
                    continue  # fewer of these are fewer samples
                given = arguments()
                inside = given
                for index in place[:-1]:
                    inside = inside[index]
                inside[place[-1]] = change(inside[place[-1]])
                with pytest.raises((TypeError, ValueError)):
                    module.let_out(*given)
        given = arguments()
        given[13][0] = hidden
        with pytest.raises(ValueError, match="cannot move within"):
            module.let_out(*given)


def test_the_ops_are_what_other_backends_run():
    assert backends.BACKENDS["reference"].device_type is None
    loop = random_loop(depth=2, dtype=torch.float32)
    state = loop.start(make_batch([3], 0.5, torch.float32), Rule())
    assert loop._cuda_ends(state, None) is None
