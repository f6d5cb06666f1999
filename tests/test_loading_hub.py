"""Load a model and an adapter from the hub like a user: a new process, an empty cache."""

import shutil
from pathlib import Path

import pytest
from hub import LocalHub, local_hub  # noqa: F401  (local_hub is a fixture)

NAME = "Qwen/Qwen2.5-0.5B"

LOAD = f"""
import torch
from mathsft import load_adapter, load_model
model, tokenizer = load_model({NAME!r}, quantize=True)
print("nf4", model.is_loaded_in_4bit, "tokens", len(tokenizer))
model = load_adapter(model, "someone/adapter")
print("adapter", model.active_adapter)
"""

SAVE = """
import sys, torch
from mathsft import add_adapter, load_model, save_adapter
model = add_adapter(load_model(sys.argv[1])[0])
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
save_adapter(model, sys.argv[2])
"""


@pytest.mark.slow
def test_a_quantised_model_and_an_adapter_come_from_the_hub(
    local_hub: LocalHub,  # noqa: F811
    small_model_dir: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(small_model_dir, local_hub.folder("models", NAME), dirs_exist_ok=True)
    folder = local_hub.folder("models", "someone") / "adapter"
    arguments = f"import sys; sys.argv[1:] = [{str(small_model_dir)!r}, {str(folder)!r}]"
    saved = local_hub.python(arguments + SAVE, home=tmp_path / "home")
    assert saved.returncode == 0, saved.stderr
    loaded = local_hub.python(LOAD, home=tmp_path / "home")
    assert loaded.returncode == 0, loaded.stderr
    assert "nf4 True" in loaded.stdout
    assert "adapter default" in loaded.stdout


@pytest.mark.slow
def test_an_unknown_name_says_what_to_do(local_hub: LocalHub, tmp_path: Path) -> None:  # noqa: F811
    code = "from mathsft import load_model; load_model('Qwen/Qwen2.5-0.5b')"
    failed = local_hub.python(code, home=tmp_path / "home")
    assert failed.returncode != 0
    last = failed.stderr.strip().splitlines()[-2:]
    assert "check the spelling" in " ".join(last)
