"""Train the tiny model from scratch: ``python -m mathsft.models.tiny.pretrain --output DIR``.

Everything is seeded and runs on a CPU. The model card (README.md beside this file) says
how the shipped weights were trained, how long it took and what the model can do.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathsft.models.tiny.corpus import documents, train_tokenizer

VOCAB_SIZE = 1024  # at most: the text may run out of pairs to merge earlier
CONTEXT = 256  # tokens per training row; the longest document has about 130
ROWS_PER_STEP = 16
HELD_OUT_ROWS = 64  # rows that are not trained on; problems may also occur in trained rows


def build_model(vocab_size: int, end_of_text: int) -> Qwen2ForCausalLM:
    """A Qwen2 of 1.7 M parameters, float32, with Qwen2.5-0.5B's head dimension of 64."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            pad_token_id=end_of_text,
        )
    )


def build_rows(tokenizer: Any, texts: Iterable[str], *, seed: int) -> torch.Tensor:
    """Join texts with the end-of-text token, cut into shuffled rows: int64 (rows, CONTEXT)."""
    ids: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids.extend(encoding.ids)
        ids.append(tokenizer.eos_token_id)
    rows = torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


def build_optimizers(
    model: Qwen2ForCausalLM, *, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the layers'
    matrices, AdamW for the rest, as its authors advise."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=learning_rate / 5, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def schedule(step: int, steps: int) -> float:
    """Return the learning-rate factor: 2 % warm-up, flat, linear to zero over the last 40 %."""
    warm, cool = max(1, steps // 50), 0.4 * steps
    return min(1.0, (step + 1) / warm, (steps - step) / cool)


def run_steps(
    model: Qwen2ForCausalLM, rows: torch.Tensor, *, steps: int, learning_rate: float
) -> None:
    """Run ``steps`` optimiser steps of ``ROWS_PER_STEP`` rows, in order; print the loss."""
    optimizers = build_optimizers(model, learning_rate=learning_rate)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    start = time.time()
    for step in range(steps):
        first = step * ROWS_PER_STEP % (len(rows) - ROWS_PER_STEP + 1)
        batch = rows[first : first + ROWS_PER_STEP]
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule(step, steps)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            spent = (time.time() - start) / 60
            print(f"step {step:5d}  loss {loss.item():.4f}  {spent:.1f} min", flush=True)


def train(*, output: Path, steps: int = 3600, learning_rate: float = 0.02, seed: int = 0) -> None:
    """Train a model, from random weights, to solve problems; save it to ``output``.

    Args:
        output: folder for config, tokenizer and bfloat16 weights.
        steps: optimiser steps of ``ROWS_PER_STEP`` rows of ``CONTEXT`` tokens.
        learning_rate: Muon's peak; AdamW uses a fifth of it.
        seed: for text, order and initial weights.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(documents(4000, seed=seed + 1), vocab_size=VOCAB_SIZE)
    needed = int(steps * ROWS_PER_STEP * CONTEXT / 70) + 4000  # a document has over 70 tokens
    rows = build_rows(tokenizer, documents(needed, seed=seed), seed=seed)
    held_out, rows = rows[:HELD_OUT_ROWS], rows[HELD_OUT_ROWS:]
    model: Any = build_model(len(tokenizer), tokenizer.eos_token_id)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {rows.numel() / 1e6:.1f} M tokens")
    run_steps(model, rows, steps=steps, learning_rate=learning_rate)
    with torch.no_grad():
        loss = model(input_ids=held_out, labels=held_out, use_cache=False).loss.item()
    print(f"held-out loss {loss:.4f}", flush=True)
    model.to(dtype=torch.bfloat16)
    print(
        f"{tell_unseen_apart(model, tokenizer, seed=seed)} tokens of the vocabulary never occurred"
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def tell_unseen_apart(model: Any, tokenizer: Any, *, seed: int) -> int:
    """Give each token that never occurs in the text its own embedding; return their number.

    The softmax pushes all of them the same way, so they end with one common embedding, and
    no adapter could learn to write ``#`` rather than ``@``. Each gets a random direction, half
    as long as a usual embedding. They then differ, and are as improbable as before.
    """
    seen = {tokenizer.eos_token_id}
    texts = list(documents(20_000, seed=seed))
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
        seen.update(encoding.ids)
    unseen = torch.tensor([i for i in range(len(tokenizer)) if i not in seen])
    embedding = model.get_input_embeddings().weight.data
    values = embedding.float()
    usual = values[sorted(seen)].norm(dim=1).mean()
    noise = torch.randn(len(unseen), values.shape[1], generator=torch.Generator().manual_seed(seed))
    values[unseen] += noise / noise.norm(dim=1, keepdim=True) * usual / 2
    embedding.copy_(values)
    return len(unseen)


def main() -> None:
    """Train from the command line: ``python -m mathsft.models.tiny.pretrain --output FOLDER``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(output=options.output, seed=options.seed)


if __name__ == "__main__":
    main()
