"""Faults of the loops over layers, in C++ and Python, of which tests/engine asks the same answers."""

from faults.fault import Fault

RULES = "test_rules.py test_graph_rules.py"
PRECISION = "../test_precision.py"
FAULTS = [
    Fault(
        "a layer's Speed raises a sample's",
        "csrc/cpu/encoder.cpp",
        "return std::min(speed, limit);",
        "return std::max(speed, limit);",
        RULES,
    ),
    Fault(
        "a head that is not asked counts in a streak",
        "csrc/cpu/encoder.cpp",
        "if (!input_.asked[layer - 1]) return false;",
        "",
        RULES,
    ),
    Fault(
        "a slower precision is taken without a word",
        "fastbert_kernels/precision.py",
        "if rate * MARGIN < rates.float32:",
        "if rate * MARGIN > rates.float32:",
        PRECISION,
    ),
    Fault(
        "int8: the products that stay in bfloat16 are the others",
        "fastbert_kernels/engine/dtypes.py",
        "return tuple(name for name in PRODUCTS if name not in dtype.bfloat16_products)",
        "return tuple(name for name in PRODUCTS if name in dtype.bfloat16_products)",
        "../ops/test_encoder_layer.py",
    ),
    Fault(
        "relative positions: the bucket next to it",
        "fastbert_kernels/hosts/bert_layers.py",
        "relative_position_bucket(distances)]",
        "relative_position_bucket(distances + 1)]",
        "../hosts/test_transformers_classifiers.py",
    ),
    Fault(
        "relative positions: heads in the reverse order",
        "fastbert_kernels/engine/compiled.py",
        "(weights.position_bias.float() * head_size**0.5)",
        "(weights.position_bias.float().flip(0) * head_size**0.5)",
        "../hosts/test_transformers_classifiers.py",
    ),
    Fault(
        "auto looks at no label",
        "fastbert_kernels/precision.py",
        "return others == 0 and largest <= TOLERANCE, finding",
        "return largest <= TOLERANCE, finding",
        PRECISION,
    ),
    Fault(
        "bfloat16 products are taken wherever there are some",
        "fastbert_kernels/product_rates.py",
        'operand = "bfloat16" if own * MARGIN >= as_float else "float32"',
        'operand = "bfloat16" if own > 0 else "float32"',
        PRECISION,
    ),
    Fault(
        "the batch forgets the samples' own Speed",
        "fastbert_kernels/engine/loop.py",
        "    logits, uncertainty, history, keep = _ask(head, batch, speed, rule, backend)",
        "    logits, uncertainty, history, keep = _ask(head, batch, speed, rule, backend)\n    batch.speed = speed",
        RULES,
    ),
    Fault(
        "patience: Speed 0 binds a sample to stay",
        "fastbert_kernels/engine/loop.py",
        "return 0 if rule.criterion in WITH_HISTORY else int((~(speed > 0)).sum())",
        "return int((~(speed > 0)).sum())",
        RULES,
    ),
    Fault(
        "graphs keep the first Speeds of the layers",
        "fastbert_kernels/engine/graphs.py",
        "if speeds != self._filled:",
        "if self._filled is None:",
        RULES,
    ),
    Fault(
        "what lies behind a padded call is looked at",
        "fastbert_kernels/engine/entrance.py",
        "inside, marked, types = row < samples,",
        "inside, marked, types = row >= 0,",
        "test_entrance.py",
    ),
    Fault(
        "a call with a wrong input runs its layers",
        "fastbert_kernels/engine/entrance.py",
        "(sample + 1).masked_fill(~real | has_fault, 0)",
        "(sample + 1).masked_fill(~real, 0)",
        "test_entrance.py",
    ),
    Fault(
        "padding is not counted in the time of the attention",
        "fastbert_kernels/engine/attention_choice.py",
        "measured[way] * (tokens if way == VARLEN else cells)",
        "measured[way] * tokens",
        "test_attention_choice.py",
    ),
    Fault(
        "a span forgets the streaks before it",
        "csrc/cpu/encoder.cpp",
        "if (has_history_) std::copy_n(input.history, 2 * batch_, now_.history.begin());",
        "",
        "test_spans.py",
    ),
    Fault(
        "pool: nobody is ever overdue",
        "fastbert_kernels/engine/schedule.py",
        "item[1].waiting_since + self.patience <= now]",
        "item[1].waiting_since + self.patience < -now]",
        "test_schedule.py",
    ),
    Fault(
        "pool: the first stay where others were cancelled",
        "fastbert_kernels/engine/pool.py",
        "bundle.state.select(places)",
        "bundle.state.select(list(range(len(places))))",
        "test_sample_pool.py",
    ),
]
