"""A real SentencePiece model, trained here, in a tokenizer of Llama's kind."""

from pathlib import Path
from typing import Any


def lines() -> list[str]:
    """Return the text to train it on."""
    text = [
        f"Question: Tom has {n} apples and eats {n // 2}. How many are left?\nAnswer:\n"
        f"Five is {n} - {n // 2} = {n - n // 2} apples left. #### {n - n // 2}"
        for n in range(400)
    ]
    return [line for one in text for line in one.split("\n")]


def llama_tokenizer(folder: Path, **settings: Any) -> Any:
    """Return a `transformers.LlamaTokenizer` with a BPE model like that of Llama 2 and Mistral.

    Phi-3 has the same kind: byte fallback, no normalisation, one token per digit, a mark at the
    start of a text.
    """
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.model").exists():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines()),
            model_prefix=str(folder / "tokenizer"),
            vocab_size=400,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            split_digits=True,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    tokenizer = LlamaTokenizer.from_pretrained(str(folder), **settings)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
