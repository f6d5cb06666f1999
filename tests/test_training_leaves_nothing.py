"""When a trainer and its model are deleted, none of the model's weights stays in memory."""

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_training import trainer as rollouts
from small_training import PROBLEMS, trainer
from transformers import TrainerCallback
from transformers.training_args import OptimizerNames

from mathsft.models.loading import load_model
from mathsft.objectives.policy import DrGRPO
from mathsft.training.make import multiple_choice_trainer

# On a CPU they are not paged, and bitsandbytes says so.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
# Those of transformers that cannot be made here, and why.
ELSEWHERE = {
    "adamw_torch_xla": "needs torch_xla", "adamw_torch_npu_fused": "needs torch_npu",
    "adamw_apex_fused": "needs apex", "adamw_anyprecision": "needs torchdistx",
    "adamw_torch_4bit": "needs torchao", "adamw_torch_8bit": "needs torchao",
    "galore_adamw": "needs galore_torch", "galore_adamw_8bit": "needs galore_torch",
    "galore_adafactor": "needs galore_torch", "galore_adamw_layerwise": "needs galore_torch",
    "galore_adamw_8bit_layerwise": "needs galore_torch",
    "galore_adafactor_layerwise": "needs galore_torch",
    "lomo": "needs lomo_optim", "adalomo": "needs lomo_optim", "grokadamw": "needs grokadamw",
    "schedule_free_radam": "needs schedulefree", "schedule_free_adamw": "needs schedulefree",
    "schedule_free_sgd": "needs schedulefree", "apollo_adamw": "needs apollo_torch",
    "apollo_adamw_layerwise": "needs apollo_torch", "stable_adamw": "needs torch-optimi",
}  # fmt: skip
HERE = [name.value for name in OptimizerNames if name.value not in ELSEWHERE]
_QUICK = ("adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_8bit", "adafactor")
STEPS: dict[str, Any] = {"max_steps": 2, "save_strategy": "no"}


def watched(model: Any) -> dict[str, Any]:
    """Weak references to every parameter and buffer, and to the memory behind it."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found: dict[str, Any] = {name: weakref.ref(tensor) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        found[f"storage of {name}"] = weakref.ref(tensor.untyped_storage())
    return found


def alive(references: dict[str, Any]) -> list[str]:
    gc.collect()
    return [name for name, reference in references.items() if reference() is not None]


def registered() -> list[Any]:
    import bitsandbytes

    return list(bitsandbytes.optim.GlobalOptimManager.get_instance().module_weight_config_triple)


@pytest.mark.parametrize(
    "optim", [pytest.param(n, marks=() if n in _QUICK else pytest.mark.slow) for n in HERE]
)
def test_no_weight_is_alive_after_training_with_any_optimiser(
    optim: str, small_model_dir: Path, tmp_path: Path
) -> None:
    made = trainer(small_model_dir, tmp_path, optim=optim, **STEPS)
    references = watched(made.model)
    assert len(alive(references)) == len(references)
    made.train()
    del made
    assert alive(references) == []


def test_a_weight_that_is_still_in_use_would_be_seen(small_model_dir: Path) -> None:
    model, _ = load_model(small_model_dir, device="cpu")
    references = watched(model)
    name, kept = next((name, parameter.data) for name, parameter in model.named_parameters())
    del model
    assert alive(references) == [f"storage of {name}"]
    assert kept.numel()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"])
def test_no_weight_is_alive_after_learning_from_attempts(
    optim: str, small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    references = watched(model)
    made = rollouts(model, tokenizer, DrGRPO(), tmp_path, max_steps=1, optim=optim)
    made.train()
    del made, model
    assert alive(references) == []


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit"])
def test_no_weight_is_alive_after_training_all_of_them(
    optim: str, small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    references = watched(model)
    made = multiple_choice_trainer(
        model, tokenizer, PROBLEMS, output_dir=tmp_path, optim=optim, disable_tqdm=True, **STEPS
    )
    made.train()
    del made, model
    assert alive(references) == []


class _Interrupted(TrainerCallback):
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def on_step_end(self, *_: Any, **__: Any) -> None:
        raise self._error("now")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_weight_is_alive_after_an_error_in_training(
    error: type[BaseException], small_model_dir: Path, tmp_path: Path
) -> None:
    stop = [_Interrupted(error)]
    made = trainer(small_model_dir, tmp_path, optim="adamw_bnb_8bit", callbacks=stop, **STEPS)
    references = watched(made.model)
    before = registered()
    with pytest.raises(error, match="now") as caught:
        made.train()
    assert registered() == before
    del made, caught
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    assert alive(references) == []


def test_what_others_have_told_bitsandbytes_stays(small_model_dir: Path, tmp_path: Path) -> None:
    """Another model's setting, one that was given by hand for this model, and their places."""
    import bitsandbytes

    manager: Any = bitsandbytes.optim.GlobalOptimManager.get_instance()
    model, tokenizer = load_model(small_model_dir, device="cpu")
    embedding = model.get_input_embeddings()
    other, by_hand = torch.nn.Embedding(2, 2), {"optim_bits": 32}
    manager.register_module_override(embedding, "weight", by_hand)
    places = [(0, place) for place in range(3)]
    manager.index2config |= dict.fromkeys(places, by_hand)

    class Registers(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if all(module is not other for module, *_ in registered()):
                manager.register_module_override(other, "weight", {"optim_bits": 8})

    before = registered()
    try:
        made = multiple_choice_trainer(
            model, tokenizer, PROBLEMS, output_dir=tmp_path, optim="adamw_bnb_8bit",
            callbacks=[Registers()], disable_tqdm=True, **STEPS,
        )  # fmt: skip
        made.train()
        assert registered()[:-1] == before
        assert registered()[-1][0] is other
        assert [manager.index2config[place] for place in places] == [by_hand] * 3
        optimizer = made.optimizer.optimizer
        assert optimizer.state[embedding.weight]["state1"].dtype == torch.float32
    finally:
        manager.initialize()


def test_a_later_optimiser_is_not_given_an_earlier_embeddings_setting(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """bitsandbytes stores it by the parameter's place, and would apply it to what comes next."""
    import bitsandbytes

    manager: Any = bitsandbytes.optim.GlobalOptimManager.get_instance()
    before = dict(manager.index2config), dict(manager.pid2config)
    model, tokenizer = load_model(small_model_dir, device="cpu")
    made = multiple_choice_trainer(
        model, tokenizer, PROBLEMS, output_dir=tmp_path, optim="adamw_bnb_8bit",
        disable_tqdm=True, **STEPS,
    )  # fmt: skip
    made.train()
    assert (manager.index2config, manager.pid2config) == before
    state = made.optimizer.optimizer.state
    assert state[model.get_input_embeddings().weight]["state1"].dtype == torch.float32
    made.train()  # the same optimiser: its states keep their precision
    assert state[model.get_input_embeddings().weight]["state1"].dtype == torch.float32
