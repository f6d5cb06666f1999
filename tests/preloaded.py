"""What the fork server of `forked` imports before it forks."""

from importlib import import_module

for name in (
    "lm_eval.models.huggingface",
    "transformers.models.qwen2.modeling_qwen2",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "mathsft.cli",
    "mathsft.evaluation.harness",
    "mathsft.training.make",
    "mathsft.training.rollout_trainer",
):
    import_module(name)
