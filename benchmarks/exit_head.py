"""The exit heads against their own modules, plain and compiled, and against a bare H -> C product.

    python benchmarks/exit_head.py [--device cpu|cuda] [--rounds 30]

The module works on padded batches, as models do; ours on the packed batch. Heads: attentive, the paper's; linear, the
same without activations, as some implementations have it; pooled, the mean of the tokens and two layers. Floor: the
FLOPs that no form of the head avoids at the measured matrix rate, or the bytes of the hidden states at the measured
copy bandwidth, whichever takes longer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from families import result_name
from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_hf.heads import AttentiveHead
from fastbert_hf.timing import ratio, time_interleaved
from fastbert_kernels import _extension, backends, ops
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.hosts import fastbert_hf as host
from fastbert_kernels.ops import library
from fastbert_kernels.ops.attentive_head import pack_head
from harness import DTYPES, CaseResults, arguments, copy_bandwidth, matmul_rate, sample_lengths

HIDDEN, NARROW, HEADS, LABELS = 768, 128, 2, 2
LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class LinearHead(AttentiveHead):
    """The attentive head without its activations."""

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        projected = self.projection(hidden)
        query = self._split_heads(self.query(projected[:, :1]))
        key, value = self._split_heads(self.key(projected)), self._split_heads(self.value(projected))
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask[:, None, None, :])
        context = context.transpose(1, 2).flatten(1)
        return self.classifier(self.dense(self.attention_output(context)))


class PooledHead(nn.Module):
    """The mean of the tokens, a layer with tanh, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(HIDDEN, HIDDEN)
        self.classifier = nn.Linear(HIDDEN, LABELS)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return self.classifier(torch.tanh(self.dense(mean)))


@dataclass(frozen=True)
class Head:
    """A kind of exit head.

    Attributes:
        module: as a model in plain PyTorch has it.
        flops: that no form of it avoids, from tokens and samples.
        ours: (packed, cu_seqlens, speed, backend) -> logits and so on, from a module.
    """

    module: Callable[[], nn.Module]
    flops: Callable[[int, int], int]
    ours: Callable[[Any], Callable[[Tensor, Tensor, Tensor, str], Any]]


def attentive(activation: str) -> Callable[[Any], Callable[..., Any]]:
    def prepare(module: AttentiveHead) -> Callable[..., Any]:
        parameters = [getattr(part, name).detach() for part, name in host.head_parameters(module)]
        dtype = parameters[0].dtype
        folded = fold_attentive_head(*parameters, num_attention_heads=HEADS, dtype=dtype)
        weights, head = folded.tensors, None
        if weights.query.device.type == "cpu" and activation == "tanh":  # the engine packs once, too
            head = pack_head(folded, dtype)

        def run(packed: Tensor, cu_seqlens: Tensor, speed: Tensor, backend: str) -> Any:
            if head is not None and backend == "cpu":
                results = library.decision_results(packed, speed.shape[0], LABELS)
                _extension.module().attentive_head_cpu(packed, cu_seqlens, speed, head, results, None, "entropy", 0)
                return results
            options = {"narrow_activation": activation, "mlp_activation": activation}
            return ops.attentive_head(packed, cu_seqlens, speed, weights, **options, backend=backend)

        return run

    return prepare


def pooled(module: PooledHead) -> Callable[..., Any]:
    weights = [module.dense.weight.detach(), module.classifier.weight.detach()]
    biases = [module.dense.bias.detach().float(), module.classifier.bias.detach().float()]

    def run(packed: Tensor, cu_seqlens: Tensor, speed: Tensor, backend: str) -> Any:
        return ops.pooled_exit_head(packed, cu_seqlens, speed, weights, biases, pooling="mean", backend=backend)

    return run


KINDS = {
    "attentive": Head(
        lambda: AttentiveHead(HIDDEN, NARROW, HEADS, LABELS),
        lambda tokens, samples: 2 * tokens * (HIDDEN * NARROW + 2 * HEADS * NARROW),
        attentive("tanh"),
    ),
    "linear": Head(
        lambda: LinearHead(HIDDEN, NARROW, HEADS, LABELS),
        lambda tokens, samples: 4 * tokens * HEADS * HIDDEN,
        attentive("identity"),
    ),
    "pooled": Head(
        PooledHead,
        lambda tokens, samples: tokens * HIDDEN + 2 * samples * HIDDEN * HIDDEN,
        pooled,
    ),
}


def decide(module: Callable[..., torch.Tensor], padded: torch.Tensor, mask: torch.Tensor, speed: torch.Tensor) -> Any:
    """The exit decision as a model in plain PyTorch makes it."""
    logits = module(padded, mask).float()
    uncertainty = normalised_entropy(logits)
    return logits, uncertainty, ~(uncertainty < speed)


def run_case(
    name_of_head: str,
    batch: int,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    bandwidth: float,
    rate: float,
) -> dict[str, Any]:
    head = KINDS[name_of_head]
    torch.manual_seed(0)
    module = head.module().to(device, dtype).eval()
    lengths = torch.tensor(sample_lengths(batch, kind), device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    padded = torch.randn(*mask.shape, HIDDEN, device=device).to(dtype)
    packed = padded[mask]
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
    speed = torch.full((batch,), 0.5, device=device)
    with torch.inference_mode():
        narrow = torch.randn(NARROW, HIDDEN, device=device).to(dtype)
        compiled = torch.compile(copy.deepcopy(module), dynamic=False)
        contestants: dict[str, Callable[[], Any]] = {
            "module": lambda: decide(module, padded, mask, speed),
            "compiled module": lambda: decide(compiled, padded, mask, speed),
            "bare product": lambda: F.linear(packed, narrow),
        }
        run = head.ours(module)
        ours = [
            backend.name
            for backend in backends.BACKENDS.values()
            if backend.device_type in (None, device.type) and backend.unavailable() is None
        ]
        for name in ours:
            contestants[name] = lambda name=name: run(packed, cu_seqlens, speed, name)
        want = contestants["module"]()
        errors = {name: (contestants[name]()[0] - want[0]).abs().max().item() for name in ours}
        times = time_interleaved(contestants, device, rounds)
    tokens = packed.shape[0]
    flops = head.flops(tokens, batch)
    size = packed.numel() * packed.element_size()
    return {
        "head": name_of_head,
        "batch": batch,
        "lengths": kind,
        "tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": size,
        "flops": flops,
        "floor_seconds": max(size / bandwidth, flops / rate),
        "errors": errors,
        "seconds": {name: value.rounds for name, value in times.items()},
        "rows": [
            row(name, times, errors.get(name), max(size / bandwidth, flops / rate), LARGEST_ERROR[dtype])
            for name in times
        ],
    }


def row(name: str, times: dict[str, Any], error: float | None, floor: float, allowed: float) -> dict[str, str]:
    p20, p50, p80 = (1e6 * value for value in times[name].quantiles)
    wrong = error is not None and not error <= allowed
    return {
        "what": name,
        "p20 / p50 / p80 (us)": f"{p20:.0f} / {p50:.0f} / {p80:.0f}",
        "over the module": "outputs disagree" if wrong else f"{ratio(times['module'], times[name]):.2f}x",
        "over the compiled module": "outputs disagree"
        if wrong
        else f"{ratio(times['compiled module'], times[name]):.2f}x",
        "of the bare product": f"{1 / ratio(times['bare product'], times[name]):.2f}",
        "floor's share": f"{1e6 * floor / p50:.0%}",
        "largest logit error": "-" if error is None else f"{error:.1e}",
    }


def main() -> None:
    options = arguments("Times the exit head.")
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    largest = 128 if gpu else 32
    cases = [("attentive", largest, "full"), ("attentive", largest, "mixed"), ("attentive", 8, "mixed")]
    cases += [(head, largest, kind) for head in ("linear", "pooled") for kind in ("full", "mixed")]
    dtypes = ["bfloat16", "float32"] if gpu else ["float32", "bfloat16"]
    if options.quick:
        cases, dtypes = cases[-1:], dtypes[:1]
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(device)
    facts: dict[str, Any] = {"shape": [HIDDEN, NARROW, HEADS, LABELS], "copy_bytes_per_second": bandwidth}
    rates = {name: matmul_rate(device, DTYPES[name]) for name in dtypes}
    facts |= {f"matmul_flops_per_second_{name}": rate for name, rate in rates.items()}
    title = "# Exit heads, H = 768, C = 128, 2 heads, 2 labels"
    results = CaseResults(title, facts, None if options.quick else options.out, result_name("exit_head", device.type))
    for name in dtypes:
        for head, batch, kind in cases:
            case = run_case(head, batch, kind, device, DTYPES[name], options.rounds, bandwidth, rates[name])
            results.add(f"{head}, {name}, batch {batch}, {kind} lengths ({case['tokens']} tokens)", case)


if __name__ == "__main__":
    main()
