"""Evaluate a model on tasks of lm-evaluation-harness."""

import math
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lm_eval
from accelerate.utils import broadcast_object_list
from torch import nn

from mathsft.checks import check_numbers
from mathsft.device import installed_version
from mathsft.evaluation.answer_cache import json_answers
from mathsft.evaluation.guards import about_model, cache_name, check_distinct
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.requests import quiet_harness, shared_out
from mathsft.evaluation.results import Result, same_questions
from mathsft.evaluation.samples import figures, prompts_hash, questions_of, short_name
from mathsft.evaluation.saving import Places
from mathsft.evaluation.served import refuse_for_server, served_lm
from mathsft.evaluation.suites import SUITES, in_full
from mathsft.evaluation.tasks import load_tasks, task_manager
from mathsft.files import check_writable
from mathsft.models.memory import memory_gb
from mathsft.models.modes import evaluating, random_state_kept
from mathsft.processes import in_first

# Arguments of the harness for a model that it loads itself; ours is already loaded.
UNHEEDED = {"model_args", "device", "max_batch_size", "evaluation_tracker", "hf_config"}
_FOUND = ("samples", "results", "n-shot")  # what is kept of the harness's results
_VERSIONS = ("mathsft", "lm_eval", "torch", "transformers", "peft", "bitsandbytes", "datasets")


def evaluate(
    model: Any,
    tasks: str | Sequence[str] = "mathqa",
    *,
    tokenizer: Any = None,
    name: str | None = None,
    peft: str | Path | None = None,
    quantize: bool = False,
    revision: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int | str = "auto",
    seed: int = 1234,
    file: str | Path | None = None,
    examples: str | Path | None = None,
    base: Result | None = None,
    folder: str | Path | None = None,
    use_cache: str | Path | None = None,
    trust_task_code: bool = False,
    base_url: str | None = None,
    server: Literal["vllm", "sglang", "transformers", "chat"] | None = None,
    concurrency: int = 8,
    answer_timeout: float = 600.0,
    **arguments: Any,
) -> Any:
    """Score a model on tasks of lm-evaluation-harness, question by question.

    Args:
        model: a loaded model (with its ``tokenizer``), with or without an adapter; or "tiny",
            a folder, or a hub name, which may be a merged model. With ``base_url``: its name on
            the server.
        tasks: one task's name or several: the harness's own, such as ``mathqa``, or one of ours:
            ``mathqa_tiny`` (generated rows, offline), ``mathqa_file`` (the rows of ``file``),
            and ``mathqa_clean``, ``mathqa_file_clean`` (choices as a person reads them). A path is
            a task file in the harness's YAML. A suite is a list of tasks with a name: ``maths``,
            ``code``, ``instruction``, ``science``, ``knowledge`` (`mathsft.evaluation.suites`).
        tokenizer: the tokenizer of a loaded model; a model given by name is loaded with its own.
            With ``base_url``: the served model's, or where it is stored; default: ``model``.
        name: what tables call this run; default: the model's and the adapter's names.
        peft: an adapter to put on a model given by name, a folder or a hub name (`load_adapter`).
        quantize: load a model given by name in 4 bits.
        revision: branch, tag or commit of a model that comes from the hub.
        num_fewshot: worked examples before each question; default: the task's own, or none.
        limit: ask only this many questions, the first; results of other limits are not comparable.
        batch_size: one pass holds the tokens of this many of the longest requests; "auto": as many
            tokens as suit the device (`ForestLM`).
        seed: chooses the few-shot examples (1234 is the harness's own default).
        file: a file of MathQA rows to ask, for ``mathqa_file``.
        examples: a file of MathQA rows for few-shot prompts; default: ``file``.
        base: the base model's result on the same questions: a tuned model with exactly the
            scores of its base is an error.
        folder: where to save each result (`Result.save`); default: nowhere. It is checked before
            the model is loaded.
        use_cache: a path for the harness's cache of answers. Hashes of all that affects them
            (`mathsft.evaluation.guards`) and the harness's suffix are added to it. Answers are
            stored as JSON (`mathsft.evaluation.answer_cache`).
        trust_task_code: run the code of task files that are given by path, such as ``!function``.
            Otherwise a file with code is refused, and nothing of it is run
            (`mathsft.evaluation.task_code`).
        base_url: the address of a server that answers in place of a model of this process, such
            as ``http://localhost:8000``. Its key: the environment variable MATHSFT_API_KEY.
        server: what answers there; default: as ``/v1/models`` says. Log-likelihoods need vLLM or
            SGLang; ``transformers`` (``transformers serve``) and ``chat`` (any other server of
            conversations, with ``apply_chat_template=True``) only write answers.
        concurrency: requests to the server that are under way at the same time.
        answer_timeout: seconds to wait for one answer of the server.
        arguments: further arguments of the harness's `simple_evaluate`, such as
            ``apply_chat_template=True``.

    In several processes (torchrun), call it in each: each scores its share of the questions, all
    return the same result, and process 0 saves it. The scores are those of one process; minutes
    and memory are those of process 0.

    Returns:
        A `Result` for a task's name; a list of them for a list of names, which may include groups,
        such as ``["mmlu"]``.

    Raises:
        ValueError: an unknown task, or a group that is not given in a list; a task file that would
            run code; an argument for models that the harness loads (``device``, ``model_args``,
            …); a base with other questions; a result of another run in the same place; an adapter
            that changes nothing, or scores equal to ``base``'s (the result is saved first); a
            score that is not finite; whatever `load_model` and `load_adapter` raise.
        OSError: the folder is read-only. If saving fails after the work, the message says where
            the result was saved instead.
    """
    check_numbers(
        {**arguments, "num_fewshot": num_fewshot, "limit": limit, "batch_size": batch_size}
        | {"seed": seed}
    )
    for key in UNHEEDED.intersection(arguments):
        raise ValueError(f"{key} would change nothing: the harness gets a loaded model")
    if not isinstance(trust_task_code, bool):
        raise ValueError(f"trust_task_code={trust_task_code!r}: give True or False")
    if folder is not None:
        check_writable(folder)
    if base_url is not None:
        local = {"peft": peft, "quantize": quantize, "revision": revision, "use_cache": use_cache}
        refuse_for_server(model, local)
    elif isinstance(tokenizer, str):
        raise ValueError("a model given by name has its own tokenizer: leave tokenizer out")
    single = isinstance(tasks, str) and tasks not in SUITES
    names = in_full(tasks)
    manager = task_manager(names, file=file, examples=examples, trust_task_code=trust_task_code)
    # HFLM switches the model to evaluation mode, and not back.
    mode = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
    stack = ExitStack()
    with stack, mode, shared_out(), random_state_kept(), json_answers(), quiet_harness() as stderr:
        random.seed(0)  # some tasks shuffle their choices (gpqa): the same way each time
        loaded = load_tasks(manager, names)
        if single and len(loaded["tasks"]) != 1:
            raise ValueError(f"{tasks} is a group of tasks: give [{tasks!r}], for several results")
        if base is not None and base.task not in loaded["tasks"]:
            raise ValueError(f"base is a result of {base.task}, which is not evaluated here")
        places = Places(
            folder,
            loaded["tasks"],
            num_fewshot=num_fewshot,
            limit=limit,
            samples=arguments.get("samples"),
            base=base,
        )
        if name:
            places.check(name)
        if base_url is None:
            lm: Any = ForestLM(
                model,
                tokenizer=tokenizer,
                peft=peft,
                batch_size=batch_size,
                quantize=quantize,
                revision=revision,
                progress_to=stderr,
            )
            about = about_model(lm)
            if use_cache is not None:  # the cache knows requests, not models
                of_model = cache_name(lm, about["weights"], about["adapter_hash"])
                use_cache = f"{use_cache}-{of_model}"
        else:
            lm, about = stack.enter_context(
                served_lm(
                    base_url,
                    model,
                    loaded["tasks"],
                    tokenizer=tokenizer,
                    server=server,
                    concurrency=concurrency,
                    timeout=answer_timeout,
                    seed=seed,
                    progress_to=stderr,
                )
            )
        told = [short_name(about["model"]), short_name(about["adapter"])]
        about["name"] = name = name or " + ".join(filter(None, told))
        device = about.pop("device")
        in_first(partial(places.check, name), device=device)
        began = time.perf_counter()
        found = lm_eval.simple_evaluate(
            lm,
            tasks=names if loaded["groups"] else [*loaded["tasks"].values()],
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            use_cache=use_cache,
            task_manager=manager,
            fewshot_random_seed=seed,
            log_samples=True,
            **arguments,
        )
    about |= {
        "seed": seed,
        "limit": limit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": (time.perf_counter() - began) / 60,
        "peak_memory_gb": math.nan if base_url else memory_gb()[1],
        "versions": {package: installed_version(package) for package in _VERSIONS},
    }
    if lm.world_size > 1:  # the harness gives its results to the first process only
        together = [about, {key: (found or {}).get(key) for key in _FOUND}]
        about, found = broadcast_object_list(together)
    results: list[Result] = []
    wrong: list[Exception] = []
    for task, samples in found["samples"].items():
        try:
            result = Result(
                **about,
                task=task,
                num_fewshot=int(found["n-shot"][task]),
                harness=figures(found["results"][task]),
                questions=questions_of(samples, loaded["tasks"][task].OUTPUT_TYPE),
                prompts=prompts_hash(samples),
            )
            results.append(result)
            places.save(result, device=device)
            if base is not None and base.task == task:
                same_questions([base, result])
                check_distinct(base, result)
        except (OSError, ValueError) as error:  # the other results are saved first
            wrong.append(error)
    if wrong:
        raise wrong[0]
    return results[0] if single else results
