"""Evaluate a checkpoint through a server that is started for it, and stopped again."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mathsft.checks import ABOVE_0, check_number
from mathsft.evaluation.result import Result
from mathsft.evaluation.run import evaluate
from mathsft.files import check_writable
from mathsft.generation.serving import search_path, serve_command, serve_recipes, serving
from mathsft.in_use import claimed_file
from mathsft.models.adapters import load_adapter
from mathsft.models.loading import adapter_tokenizer, load_model
from mathsft.models.merging import merge_adapter
from mathsft.models.model_files import holds_adapter


def check_serve(serve: str, *, timeout: float) -> None:
    """Raise ValueError unless checkpoints can be served so, beside a training run.

    Args:
        serve: as of `mathsft.generation.serving.serve_command`.
        timeout: seconds until a server must be ready.
    """
    check_number("serve_timeout", timeout, ABOVE_0)
    program, *_ = serve_command(serve, model="model", port=1)
    if shutil.which(program, path=search_path()) is None:
        raise ValueError(f"serve: there is no program {program!r}")
    if "CUDA_VISIBLE_DEVICES" not in os.environ and torch.cuda.device_count():
        raise ValueError(
            "which GPUs may the server use? Set CUDA_VISIBLE_DEVICES before the command (a number "
            "that the training run does not use; nothing: no GPU). A server takes most of a GPU's "
            "memory, and the training run on it could fail"
        )


def evaluate_served(
    checkpoint: Path,
    *,
    model: str | Path,
    serve: str,
    timeout: float,
    results: Path,
    server: Any = None,
    **arguments: Any,
) -> Result:
    """Start a server for a checkpoint, evaluate what it serves, stop it, and save the result.

    An adapter is merged first, on the CPU and in float32, into a folder that is removed afterwards.

    Args:
        checkpoint: the folder.
        model: the base, if the checkpoint is an adapter.
        serve: as of `mathsft.generation.serving.serve_command`.
        timeout: seconds until the server must be ready.
        results: where the result goes; logs go into ``serving`` in it.
        server: what answers (`evaluate`); default: a recipe's own, or as the server says.
        arguments: further arguments of `evaluate`.

    Raises what `serving`, `evaluate` and `merge_adapter` raise.
    """
    check_writable(results)
    known: Any = server or (serve if serve in serve_recipes() else None)
    log = results / "serving" / "server.log"
    with (
        claimed_file(log.with_name("checkpoint"), device=None),  # before one is merged there
        _whole(checkpoint, model, log.parent / checkpoint.name) as folder,
        serving(serve, model=folder, log=log, timeout=timeout) as address,
    ):
        found: Result = evaluate(
            str(folder), base_url=address, server=known, name=checkpoint.name, **arguments
        )
    scored: Any = {"model": str(checkpoint)}
    if holds_adapter(checkpoint):
        scored = {"model": str(model), "adapter": str(checkpoint)}
    found = replace(found, **scored)
    found.save(results)
    return found


@contextmanager
def _whole(checkpoint: Path, model: str | Path, merged: Path) -> Iterator[Path]:
    """The folder of a full model: the checkpoint, or its adapter merged into the base."""
    if not holds_adapter(checkpoint):
        yield checkpoint.resolve()
        return
    # In float32: in half precision the sums lose more of a small adapter than merging allows.
    base, tokenizer = load_model(model, device="cpu", dtype="float32")
    tuned = load_adapter(base, checkpoint)
    try:
        merge_adapter(tuned, merged, tokenizer=adapter_tokenizer(checkpoint, tuned) or tokenizer)
        yield merged.resolve()
    finally:
        shutil.rmtree(merged, ignore_errors=True)
