"""Write docs/api.md from the docstrings of the public names: python docs/make_api.py"""

import inspect
from pathlib import Path
from typing import Any

import mathsft

PAGE = Path(__file__).with_name("api.md")
TASKS = {
    "Look at the machine, choose settings": """
        describe device_defaults default_profile exercise load_recipe load_settings quiet run_dir
        show_figure tracker estimate_memory largest_batch memory_gb free_memory""",
    "Read and mix data": """
        load_problems read_rows write_rows kind_of head_for pairs_from add_choices mix_datasets
        training_plan
        overlap without_test_rows deduplicate decontaminate remove_questions pairs_from_groups
        question_template extract_answer same_answer official_choices
        clean_choices formula_value formula_verdict""",
    "Load, adapt and save models": """
        load_model load_tuned load_reward_model add_adapter freeze save_adapter load_adapter
        merge_adapter merge_folder save_model stop_after_turns""",
    "Train": """
        make_trainer sft_trainer multiple_choice_trainer SFT MultipleChoice DPO CPO SimPO
        ORPO KTO SMPO GPO Distillation store_teacher RewardModel Classification micro_f1
        train_by_recipe persist keep_folder show_samples""",
    "Learn from attempts": """
        generate sample_groups served_groups Server logprob_mismatch check_mismatch rollout_trainer
        Reinforce GRPO DrGRPO DAPO GSPO CISPO PPO ReinforcePlusPlus RLOO rejection_sampling
        store_attempts best_of_n ask chat""",
    "Ask servers; search for prompts": """
        serving wait_until_ready read_basket generate_basket basket_rows
        search_prompt Gumbel Swaps soft_prompt
        PromptCodebook gumbel_noise prompt_logprobs places_of""",
    "Judge answers": """
        FinalAnswer AnswerFormat Length soft_overlong InstructionFollowing JudgedBy Weighted
        reward_by_name call_reward check_judge known_completions score""",
    "Score tokens": """
        TokenForest forest_mask attention_inputs pack tokenize_problems encode_choices
        choice_context sft_prompt sequence_logprobs choice_logprobs""",
    "Evaluate and compare": """
        evaluate watch worked_answers load_results compare compare_all check_tuned accuracy_by
        template_labels reading_labels wilson_interval
        worked_result detectable_difference ForestLM quiet_harness capstone_recipe submit
        read_submission""",
    "Show results": """
        results_table pairs_table write_csv write_report plot_accuracy plot_curves plot_intervals
        plot_loss plot_mask plot_packing mask_explorer write_model_card share""",
}


def page() -> str:
    """The text of the page: for each task a table of names, arguments and what they do."""
    lines = ["# Public names by task", "", "`from mathsft import …`. Made by `docs/make_api.py`."]
    for task, names in TASKS.items():
        lines += ["", f"## {task}", "", "| name | arguments | what it does |", "|---|---|---|"]
        lines += [_row(name, getattr(mathsft, name)) for name in names.split()]
    return "\n".join(lines) + "\n"


def _row(name: str, value: Any) -> str:
    module = Path(str(inspect.getsourcefile(inspect.unwrap(value)))).relative_to(PAGE.parent.parent)
    told = [
        f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        for parameter in inspect.signature(value).parameters.values()
    ]
    first = (inspect.getdoc(value) or "").split("\n")[0].replace("|", "\\|")
    arguments = ", ".join(f"`{argument}`" for argument in told)
    return f"| [{name}](../{module}) | {arguments} | {first} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
