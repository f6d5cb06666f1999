"""Seconds of Python before a model scores questions: tokenising and laying out, on a CPU.

    python benchmarks/layout.py --json [--shape tiny|qwen2.5-0.5b] [--questions N] [--rounds N]

The requests are those of the harness for MathQA's rows, without examples and with five examples
for each question (drawn again for each). `ForestLM` gets them with passes as large as on a GPU,
and the model is replaced by zeros. So what is left is the work that a GPU may have to wait for:
tokenising all texts, and the forests of all passes. The tokenizer is learnt from the rows
(``--shape`` gives the size of its vocabulary) and splits text as Qwen2.5's does.

Times are the process's CPU time for 1,000 questions, the median over the rounds:

- `seconds`: all, and of these `tokenise` and `lay_out`.
- `hflm_tokenise`: how long the harness's `HFLM` takes to tokenise the same requests. It encodes
  text by text, each context once more for each choice.
- `positions`: tokens in all rows of the forests, padding included.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lm_eval
import tokenizers
import torch
import transformers
from common import SHAPES, random_base, raw_choice_rows, tokenizer_for
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

from mathsft.evaluation import harness
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.requests import quiet_harness
from mathsft.evaluation.tasks import TASKS, task_manager

SHOTS = {"zero_shot": 0, "five_shot": 5}


def requests_of(rows: list[dict[str, Any]], *, shots: int, questions: int) -> list[Any]:
    """The harness's requests for the first rows; the examples are drawn from the others."""
    with tempfile.TemporaryDirectory() as folder, quiet_harness():
        files = {}
        for name, part in (("file", rows[:questions]), ("examples", rows[questions:])):
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(part), encoding="utf-8")
            files[name] = str(path)
        manager = task_manager(["mathqa_file"], **files)
        (task,) = manager.load([load_yaml(TASKS / "mathqa_file.yaml")])["tasks"].values()
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=questions, rank=0, world_size=1)
    return list(task.instances)


def seconds_of(lm: Any, requests: list[Any]) -> dict[str, float]:
    """CPU seconds of the tokenising and of all that `_loglikelihood_tokens` does after it."""
    began: list[float] = []
    score = lm._loglikelihood_tokens

    def timed(*arguments: Any, **named: Any) -> Any:
        began.append(time.process_time())
        return score(*arguments, **named)

    with mock.patch.object(lm, "_loglikelihood_tokens", timed):
        start = time.process_time()
        lm.loglikelihood(requests, disable_tqdm=True)
        end = time.process_time()
    (middle,) = began
    return {"tokenise": middle - start, "lay_out": end - middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pass_tokens", type=int, default=harness.PASS_TOKENS["cuda"])
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()

    rows, source = raw_choice_rows()
    questions = min(options.questions, len(rows) // 2)
    texts = {
        "question": [row["Problem"] for row in rows],
        "solution": [row["options"] for row in rows],
    }
    tokenizer = tokenizer_for(texts, vocab_size=SHAPES[options.shape]["vocab_size"])
    model = random_base("tiny")  # it computes nothing
    positions = 0

    def zeros(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal positions
        positions += batch["input_ids"].numel()
        found = torch.zeros(len(batch["scored_tokens"]))
        return found, found == 0

    with quiet_harness():
        ours = ForestLM(model, tokenizer=tokenizer)
        hflm = HFLM(pretrained=model, tokenizer=tokenizer)
    result: dict[str, Any] = {"seconds": {}, "tokenise": {}, "lay_out": {}}
    result |= {"hflm_tokenise": {}, "positions": {}}
    for name, shots in SHOTS.items():
        requests = requests_of(rows, shots=shots, questions=questions)
        found: list[dict[str, float]] = []
        with (
            mock.patch.object(harness, "option_scores", zeros),
            mock.patch.dict(harness.PASS_TOKENS, cpu=options.pass_tokens),
            mock.patch.object(hflm, "_loglikelihood_tokens", return_value=[]),
        ):
            ours.loglikelihood(requests[:10], disable_tqdm=True)  # warm up
            for _ in range(options.rounds):
                positions = 0
                times = seconds_of(ours, requests)
                times["hflm_tokenise"] = seconds_of(hflm, requests)["tokenise"]
                found.append({key: 1000 / questions * value for key, value in times.items()})
        for key in ("tokenise", "lay_out", "hflm_tokenise"):
            result[key][name] = round(median(times[key] for times in found), 3)
        result["seconds"][name] = round(
            median(times["tokenise"] + times["lay_out"] for times in found), 3
        )
        result["positions"][name] = positions
        told = ", ".join(f"{key} {result[key][name]}" for key in ("seconds", "hflm_tokenise"))
        print(f"{name}: {told} s for 1,000 questions", flush=True)
    result |= {
        "questions": questions,
        "rounds": options.rounds,
        "pass_tokens": options.pass_tokens,
        "vocab_size": len(tokenizer),
        "source": source,
        "versions": {m.__name__: m.__version__ for m in (transformers, tokenizers, lm_eval)},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
