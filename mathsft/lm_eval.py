"""lm-evaluation-harness's own command line, which also knows our model and our tasks.

    python -m mathsft.lm_eval --model mathsft \
        --model_args pretrained=Qwen/Qwen2.5-0.5B,peft=runs/01_sft/adapter \
        --tasks mathqa --output_path results --log_samples

The flags are the harness's. It finds models in its own list, and a package can add to that list
only from inside the process; this module does so. Our tasks (``mathqa_tiny``,
``mathqa_file`` and the clean readings) are included unless ``--include_path`` is given.
Under torchrun the processes divide the questions. ``--use_cache`` is refused: the harness's
cache knows requests, not models (``mathsft evaluate --use_cache`` hashes the model as well).
"""

import sys

from lm_eval.__main__ import cli_evaluate

from mathsft.evaluation import harness  # noqa: F401 (registers the model)
from mathsft.evaluation.requests import shared_out
from mathsft.evaluation.tasks import TASKS


def main() -> None:
    """Pass the arguments on to the harness."""
    given = [argument.partition("=")[0] for argument in sys.argv[1:]]
    if {"--use_cache", "-c"} & set(given):
        sys.exit(
            "--use_cache: the harness's cache does not know which model answered, so another model "
            "would get this one's answers. Use mathsft evaluate --use_cache, or leave it out"
        )
    if given and "--include_path" not in given:
        sys.argv += ["--include_path", str(TASKS)]
    with shared_out():
        cli_evaluate()


if __name__ == "__main__":
    main()
