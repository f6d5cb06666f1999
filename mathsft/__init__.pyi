"""The public names with their types, for editors and type checkers. A test keeps them complete."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mathsft.data.answers import extract_answer as extract_answer
from mathsft.data.answers import same_answer as same_answer
from mathsft.data.choices import add_choices as add_choices
from mathsft.data.contamination import overlap as overlap
from mathsft.data.contamination import without_test_rows as without_test_rows
from mathsft.data.decontamination import remove_questions as remove_questions
from mathsft.data.deduplication import deduplicate as deduplicate
from mathsft.data.formulas import formula_value as formula_value
from mathsft.data.formulas import formula_verdict as formula_verdict
from mathsft.data.group_pairs import pairs_from_groups as pairs_from_groups
from mathsft.data.labelled import head_for as head_for
from mathsft.data.local_files import read_rows as read_rows
from mathsft.data.local_files import write_rows as write_rows
from mathsft.data.mathqa import clean_choices as clean_choices
from mathsft.data.mathqa import official_choices as official_choices
from mathsft.data.mixtures import mix_datasets as mix_datasets
from mathsft.data.mixtures import training_plan as training_plan
from mathsft.data.pairs import pairs_from as pairs_from
from mathsft.data.problems import load_problems as load_problems
from mathsft.data.prompts import choice_context as choice_context
from mathsft.data.prompts import sft_prompt as sft_prompt
from mathsft.data.questions import question_template as question_template
from mathsft.data.rows import kind_of as kind_of
from mathsft.device import default_profile as default_profile
from mathsft.device import describe as describe
from mathsft.device import device_defaults as device_defaults
from mathsft.evaluation.compare import compare as compare
from mathsft.evaluation.compare import compare_all as compare_all
from mathsft.evaluation.compare import detectable_difference as detectable_difference
from mathsft.evaluation.decontamination import decontaminate as decontaminate
from mathsft.evaluation.guards import check_tuned as check_tuned
from mathsft.evaluation.harness import ForestLM as ForestLM
from mathsft.evaluation.intervals import wilson_interval as wilson_interval
from mathsft.evaluation.plots import plot_accuracy as plot_accuracy
from mathsft.evaluation.plots import plot_curves as plot_curves
from mathsft.evaluation.plots import plot_intervals as plot_intervals
from mathsft.evaluation.plots import plot_loss as plot_loss
from mathsft.evaluation.plots import plot_mask as plot_mask
from mathsft.evaluation.plots import plot_packing as plot_packing
from mathsft.evaluation.report import write_report as write_report
from mathsft.evaluation.requests import quiet_harness as quiet_harness
from mathsft.evaluation.results import accuracy_by as accuracy_by
from mathsft.evaluation.results import load_results as load_results
from mathsft.evaluation.results import reading_labels as reading_labels
from mathsft.evaluation.results import template_labels as template_labels
from mathsft.evaluation.run import evaluate as evaluate
from mathsft.evaluation.tables import pairs_table as pairs_table
from mathsft.evaluation.tables import results_table as results_table
from mathsft.evaluation.tables import write_csv as write_csv
from mathsft.evaluation.watch import watch as watch
from mathsft.evaluation.worked import worked_answers as worked_answers
from mathsft.generation.basket_client import generate_basket as generate_basket
from mathsft.generation.baskets import basket_rows as basket_rows
from mathsft.generation.baskets import read_basket as read_basket
from mathsft.generation.best_of_n import best_of_n as best_of_n
from mathsft.generation.generate import generate as generate
from mathsft.generation.health import wait_until_ready as wait_until_ready
from mathsft.generation.instruction_rewards import InstructionFollowing as InstructionFollowing
from mathsft.generation.mismatch import check_mismatch as check_mismatch
from mathsft.generation.mismatch import logprob_mismatch as logprob_mismatch
from mathsft.generation.prompt_codebook import PromptCodebook as PromptCodebook
from mathsft.generation.prompt_codebook import gumbel_noise as gumbel_noise
from mathsft.generation.prompt_codebook import prompt_logprobs as prompt_logprobs
from mathsft.generation.prompt_methods import Gumbel as Gumbel
from mathsft.generation.prompt_methods import Swaps as Swaps
from mathsft.generation.prompt_places import places_of as places_of
from mathsft.generation.prompt_search import search_prompt as search_prompt
from mathsft.generation.reward_calls import call_reward as call_reward
from mathsft.generation.reward_checks import check_judge as check_judge
from mathsft.generation.reward_checks import known_completions as known_completions
from mathsft.generation.rewards import AnswerFormat as AnswerFormat
from mathsft.generation.rewards import FinalAnswer as FinalAnswer
from mathsft.generation.rewards import JudgedBy as JudgedBy
from mathsft.generation.rewards import Length as Length
from mathsft.generation.rewards import reward_by_name as reward_by_name
from mathsft.generation.rewards import soft_overlong as soft_overlong
from mathsft.generation.rollouts import sample_groups as sample_groups
from mathsft.generation.scoring import score as score
from mathsft.generation.selection import rejection_sampling as rejection_sampling
from mathsft.generation.served import served_groups as served_groups
from mathsft.generation.server import Server as Server
from mathsft.generation.serving import serving as serving
from mathsft.generation.soft_prompt import soft_prompt as soft_prompt
from mathsft.generation.stored_attempts import store_attempts as store_attempts
from mathsft.generation.weighted import Weighted as Weighted
from mathsft.models.adapters import add_adapter as add_adapter
from mathsft.models.adapters import load_adapter as load_adapter
from mathsft.models.adapters import merge_adapter as merge_adapter
from mathsft.models.adapters import save_adapter as save_adapter
from mathsft.models.attention import attention_inputs as attention_inputs
from mathsft.models.attention import forest_mask as forest_mask
from mathsft.models.forest import TokenForest as TokenForest
from mathsft.models.forest import pack as pack
from mathsft.models.likelihood import choice_logprobs as choice_logprobs
from mathsft.models.likelihood import encode_choices as encode_choices
from mathsft.models.loading import load_model as load_model
from mathsft.models.logprobs import sequence_logprobs as sequence_logprobs
from mathsft.models.memory import free_memory as free_memory
from mathsft.models.memory import memory_gb as memory_gb
from mathsft.models.reward_head import load_reward_model as load_reward_model
from mathsft.models.saving import save_model as save_model
from mathsft.models.trained_weights import freeze as freeze
from mathsft.notebook import exercise as exercise
from mathsft.notebook import show_figure as show_figure
from mathsft.objectives.classification import Classification as Classification
from mathsft.objectives.classification import micro_f1 as micro_f1
from mathsft.objectives.conversations import stop_after_turns as stop_after_turns
from mathsft.objectives.distillation import Distillation as Distillation
from mathsft.objectives.gpo import GPO as GPO
from mathsft.objectives.kto import KTO as KTO
from mathsft.objectives.multiple_choice import MultipleChoice as MultipleChoice
from mathsft.objectives.policy import CISPO as CISPO
from mathsft.objectives.policy import DAPO as DAPO
from mathsft.objectives.policy import GRPO as GRPO
from mathsft.objectives.policy import GSPO as GSPO
from mathsft.objectives.policy import PPO as PPO
from mathsft.objectives.policy import RLOO as RLOO
from mathsft.objectives.policy import DrGRPO as DrGRPO
from mathsft.objectives.policy import Reinforce as Reinforce
from mathsft.objectives.policy import ReinforcePlusPlus as ReinforcePlusPlus
from mathsft.objectives.preference import CPO as CPO
from mathsft.objectives.preference import DPO as DPO
from mathsft.objectives.preference import ORPO as ORPO
from mathsft.objectives.preference import SimPO as SimPO
from mathsft.objectives.reward import RewardModel as RewardModel
from mathsft.objectives.sft import SFT as SFT
from mathsft.objectives.sft import tokenize_problems as tokenize_problems
from mathsft.objectives.smpo import SMPO as SMPO
from mathsft.recipes import load_recipe as load_recipe
from mathsft.recipes.estimate import estimate_memory as estimate_memory
from mathsft.recipes.estimate import largest_batch as largest_batch
from mathsft.settings import load_settings as load_settings
from mathsft.settings import quiet as quiet
from mathsft.settings import run_dir as run_dir
from mathsft.settings import tracker as tracker
from mathsft.training.callbacks import show_samples as show_samples
from mathsft.training.make import make_trainer as make_trainer
from mathsft.training.make import multiple_choice_trainer as multiple_choice_trainer
from mathsft.training.make import sft_trainer as sft_trainer
from mathsft.training.make_rollouts import rollout_trainer as rollout_trainer
from mathsft.training.persist import keep_folder as keep_folder
from mathsft.training.persist import persist as persist
from mathsft.training.teacher_store import store_teacher as store_teacher

# Former names, which work until the next release.
free = free_memory
mix = mix_datasets
policy = device_defaults
report = write_report
wilson = wilson_interval

def option_logprobs(model: Any, batch: Mapping[str, Tensor], *, wrapped: Any = None) -> Tensor: ...
