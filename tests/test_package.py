"""The package as a user meets it: quick to import, no network, every public name there."""

import subprocess
import sys

import mathsft


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_pulls_in_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'trl', 'peft', 'numpy', 'matplotlib'}"
    assert run(f"import mathsft, sys; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in mathsft.__all__:
        assert getattr(mathsft, name).__doc__, name


def test_training_does_not_import_evaluation() -> None:
    code = (
        "import sys, mathsft.training.sft\n"
        "print([m for m in sys.modules if m.startswith('mathsft.evaluation')])"
    )
    assert run(code).splitlines()[-1] == "[]"
