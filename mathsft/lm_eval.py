"""lm-evaluation-harness's own command line, which also knows our model and our tasks.

    python -m mathsft.lm_eval --model mathsft \
        --model_args pretrained=Qwen/Qwen2.5-0.5B,peft=runs/01_sft/adapter \
        --tasks mathqa --output_path results --log_samples

All flags are the harness's. It finds models in a list of its own, to which a package can
add only from inside the process; hence this module. Our tasks (``mathqa_tiny``,
``mathqa_file`` and the clean readings) are included unless ``--include_path`` is given.
Under torchrun the processes share the questions out.
"""

import sys

from lm_eval.__main__ import cli_evaluate

from mathsft.evaluation import harness  # noqa: F401 (registers the model)
from mathsft.evaluation.sharing import shared_out
from mathsft.evaluation.tasks import TASKS


def main() -> None:
    """Hand the arguments to the harness."""
    given = [argument.partition("=")[0] for argument in sys.argv[1:]]
    if given and "--include_path" not in given:
        sys.argv += ["--include_path", str(TASKS)]
    with shared_out():
        cli_evaluate()


if __name__ == "__main__":
    main()
