"""Every shipped recipe runs by the real command line, with model and data by hub name."""

import json
from pathlib import Path

import pytest
import yaml
from hub import LocalHub, local_hub  # noqa: F401  (the fixture)
from recipe_lines import printed_recipe
from stocked_hub import stock
from torchrun import torchrun

from mathsft.recipes import load_recipe, shipped_recipes

NAMES = sorted({load_recipe(name)["model"]["name"] for name in shipped_recipes()} - {"tiny"})

SMALL = {
    "sft": [
        "--train.limit=24", "--test.limit=8", "--sft.max_steps=2", "--sft.max_length=256",
        "--sft.per_device_train_batch_size=2", "--sft.logging_steps=1",
    ],
    "multiple-choice": [
        "--choices_train.limit=24", "--choices.limit=8", "--multiple_choice.max_steps=2",
        "--multiple_choice.per_device_train_batch_size=4", "--multiple_choice.logging_steps=1",
    ],
}  # fmt: skip
# All run in one process: the imports take longer than the training. Only sizes are changed.
RUN = """
import os
from mathsft.cli import main

for recipe in {recipes!r}:
    os.environ["MATHSFT_RUNS"] = os.path.join({runs!r}, recipe)
    for command, small in {small!r}.items():
        main([command, "--config", recipe, *small])
    main(["estimate-memory", recipe])
"""

PATIENCE = """
import torch

gloo = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
print("waits", gloo.options._timeout)
"""


def check(runs: Path) -> None:
    for command in SMALL:
        assert (runs / f"{command}-1" / "adapter" / "adapter_model.safetensors").is_file()
        state = json.loads((runs / f"{command}-1" / "trainer_state.json").read_text())
        assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2]


@pytest.mark.slow
def test_every_shipped_recipe_trains_both_ways(local_hub: LocalHub, tmp_path: Path) -> None:  # noqa: F811
    recipes = sorted({*shipped_recipes()} - {"cluster"})
    code = RUN.format(recipes=recipes, runs=str(tmp_path), small=SMALL)
    done = stock(local_hub, NAMES).python(code, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("total") == len(recipes)
    for recipe in recipes:
        check(tmp_path / recipe)


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.mark.slow
def test_the_mixture_that_the_documents_print_is_trained(
    local_hub: LocalHub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "printed.yaml").write_text(printed_recipe("mix"))
    (tmp_path / "my").mkdir()
    asks = {"role": "user", "content": "How many?"}
    lines = [{"messages": [asks, {"role": "assistant", "content": f"{n}"}]} for n in (2, 3, 12)]
    (tmp_path / "my" / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    arguments = ["sft", "--config", "printed.yaml", "--model.chat_template_path", "chat.jinja"]
    arguments += ["--mix.parts", "{gsm8k: 30, chats: 3}", "--test.limit", "4", "--sft.max_steps"]
    arguments += ["2", "--sft.eval_steps", "1", "--show_samples.max_new_tokens", "8"]
    code = f"from mathsft.cli import main; main({arguments!r})"
    done = stock(local_hub, NAMES).python(code, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: 33 documents" in done.stdout
    assert "step 2, sample 3" in done.stdout
    recorded = yaml.safe_load((tmp_path / "runs" / "sft-1" / "config.yaml").read_text())
    chats = recorded["mix"]["datasets"]["chats"]["source"]
    assert chats == str(tmp_path / "my" / "chats.jsonl"), "written in full"


@pytest.mark.slow
def test_the_recipe_for_a_cluster_trains_both_ways_in_two_processes(
    local_hub: LocalHub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a CPU accelerate shards nothing; test_distributed tests sharding.
    script = tmp_path / "both.py"
    small = {**SMALL, "sft": [*SMALL["sft"], "--sft.ddp_timeout=600"]}
    script.write_text(RUN.format(recipes=["cluster"], runs=str(tmp_path), small=small) + PATIENCE)
    stock(local_hub, NAMES)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in local_hub.environment(home=tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    assert torchrun(script).count("waits 0:10:00") == 2
    check(tmp_path / "cluster")
