"""The sections of `gpu.py` that do not train: matrix rate, scoring, generation, attention."""

import tempfile
import time
from typing import Any

import torch
from attention import HEAD, HEADS, KINDS, blockwise_mask, rows_of, step
from gpu_bench import Bench, Measures
from scoring_runs import file_task, score

from mathsft.data.prompts import sft_prompt
from mathsft.evaluation.worked import worked_answers
from mathsft.models.attention import forest_mask, forest_rule


def matmul(bench: Bench) -> Measures:
    """The rate of a large square product in the dtype that the others compute in."""
    size = 512 if bench.tiny else 8192
    a = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    seconds, _ = bench.seconds(lambda: a @ a, rounds=3 if bench.tiny else 20, warm=3)
    bench.rate = 2 * size**3 / seconds
    yield "tflop_per_s", round(bench.rate / 1e12, 2)


def scoring(bench: Bench) -> Measures:
    """The harness's log-likelihood phase: zero-shot, and 5-shot with examples drawn anew."""
    model, few = bench.base(), bench.tiny
    # Questions, examples, and HFLM's batch sizes; its questions are fewer, or it takes minutes.
    plans = {
        "zero_shot": (4 if few else 1000, 4 if few else 500, 0, (2,) if few else (64, 256)),
        "5_shot": (2 if few else 200, 2 if few else 100, 5, (2,) if few else (32, 64)),
    }
    with tempfile.TemporaryDirectory() as folder:
        config, manager = file_task(bench.raw_questions, folder, sampler="default")

        def run(method: str, count: int, shots: int, size: int | str) -> float:
            found = score(
                method, model, bench.tokenizer, size, tasks=[dict(config)], num_fewshot=shots,
                limit=count, task_manager=manager, keep=False,
            )  # fmt: skip
            return len(found["samples"]) / float(found["seconds"])

        for name, (count, fewer, shots, sizes) in plans.items():
            run("ours", 2, shots, 8)
            bench.clear()
            yield f"{name}_ours_questions_per_s", round(run("ours", count, shots, 8), 1)
            yield f"{name}_ours_peak_gb", round(bench.peak_gb(), 2)
            for size in sizes:
                bench.clear()
                speed = run("hflm", fewer, shots, size)
                yield f"{name}_hflm_{size}_questions_per_s", round(speed, 1)
                yield f"{name}_hflm_{size}_peak_gb", round(bench.peak_gb(), 2)


def generation(bench: Bench) -> Measures:
    """Worked answers of full length (random weights do not stop), and transformers' `generate`."""
    model, length = bench.base(), 8 if bench.tiny else 128
    for size in (2,) if bench.tiny else (32, 128):
        problems = list(bench.problems.select(range(size)))
        worked_answers(model, bench.tokenizer, problems[:2], max_new_tokens=2)
        bench.wait()
        bench.clear()
        began = time.perf_counter()
        worked_answers(model, bench.tokenizer, problems, max_new_tokens=length, batch_size=size)
        bench.wait()
        seconds = time.perf_counter() - began
        yield f"ours_{size}_answers_tokens_per_s", round(size * length / seconds, 1)
        yield f"ours_{size}_answers_peak_gb", round(bench.peak_gb(), 2)
        prompts = [sft_prompt(problem["question"]) for problem in problems]
        given = bench.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        given = {k: given[k].to(bench.device) for k in ("input_ids", "attention_mask")}
        began = time.perf_counter()
        model.generate(**given, do_sample=False, max_new_tokens=length, min_new_tokens=length)
        bench.wait()
        speed = size * length / (time.perf_counter() - began)
        yield f"transformers_{size}_answers_tokens_per_s", round(speed, 1)


def attention(bench: Bench) -> Measures:
    """Milliseconds of one layer's attention, forward and backward, by the length of a row.

    ``dense``: the bool mask; ``numbers``: the mask as numbers; ``blocks``: blockwise; ``flex``:
    FlexAttention, compiled, on a GPU only. Shorter rows are as many as make 16,384 tokens.
    """
    compiled_flex: Any = None
    if bench.device.type == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        compiled_flex = torch.compile(flex_attention)
    lengths = (1024,) if bench.tiny else (512, 1024, 2048, 4096, 8000)
    for kind in KINDS:
        for length, row in rows_of(kind, lengths).items():
            rows = 1 if bench.tiny else max(1, 16_384 // length)
            row = {k: v.expand(rows, -1).contiguous().to(bench.device) for k, v in row.items()}
            size = (rows, HEADS, length, HEAD)
            inputs = [torch.randn(size, device=bench.device, dtype=bench.dtype) for _ in range(3)]
            seen = forest_mask(row["end"])
            numbers = torch.zeros(seen.shape, device=bench.device, dtype=bench.dtype)
            numbers.masked_fill_(~seen, -torch.inf)
            lazy = blockwise_mask(row)
            ways: dict[str, Any] = {
                "dense": lambda i=inputs, m=seen: step(i, m),
                "numbers": lambda i=inputs, m=numbers: step(i, m),
                "blocks": lambda i=inputs, m=lazy: step(i, m),
            }
            if compiled_flex is not None:
                rule: Any = forest_rule(row["end"])
                blocks = create_block_mask(
                    rule, rows, None, length, length, device=str(bench.device)
                )

                def flex(inputs: Any = inputs, blocks: Any = blocks) -> None:
                    taken = [x.detach().requires_grad_() for x in inputs]
                    output = compiled_flex(*taken, block_mask=blocks)
                    torch.autograd.grad(output.sum(), taken)

                ways["flex"] = flex
            for name, way in ways.items():
                bench.clear()
                seconds, _ = bench.seconds(way, rounds=1 if bench.tiny else 5, warm=1)
                yield f"{kind}_{length}_{name}_ms", round(1000 * seconds, 3)
