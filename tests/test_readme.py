"""The README is correct: its links lead to files, its commands exist, its scripts run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from torchrun import environment

from mathsft.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "mathsft" / "models" / "tiny" / "README.md"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_the_speed_of_scoring_is_the_one_in_the_benchmarks_results_everywhere() -> None:
    """README rounds it; lesson 04 quotes it."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    lines = [x for x in results.splitlines() if x.startswith("| `multiple_choice_scoring.py` |")]
    measured = [float(line.split("|")[4].strip(" ×")) for line in lines]
    lesson = json.loads((ROOT / "notebooks" / "04_evaluation.ipynb").read_text(encoding="utf-8"))
    texts = ("".join(cell["source"]) for cell in lesson["cells"])
    quoted = next(text for text in texts if "SPEED = {" in text)
    assert [float(x) for x in re.findall(r": ([\d.]+),$", quoted, re.M)] == measured
    scoring = README.split("multiple choice, scoring |")[1].split("\n\n")[0]
    told = [float(x) for x in re.findall(r"([\d.]+) × as fast", scoring)]
    assert told == [round(measured[0], 1), round(measured[2])]


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", CARD],
    ids=["readme", "contributing", "changelog", "model card"],
)
def test_links_inside_the_repository_lead_to_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)(?:\S+=\S+ )?make ([a-z-]+)", text, re.MULTILINE))
    assert {"course", "test", "test-colab"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.slow
def test_the_scripts_run_as_printed_one_after_the_other(tmp_path: Path) -> None:
    scripts = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(scripts) == 2
    code = "\n".join(scripts).replace("limit=1000", "limit=40").replace("limit=100)", "limit=5)")
    code = code.replace('"limit": 200', '"limit": 20')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"worked answers: \d+\.\d% \[", done.stdout), done.stdout
    assert (tmp_path / "runs" / "mine" / "adapter" / "adapter_model.safetensors").is_file()
    assert re.search(r"tiny \+ mine against base:\n[+-]\d+\.\d points", done.stdout), done.stdout
    assert (tmp_path / "report.html").is_file()


SECTION = README.partition("## From the command line")[2].partition("\n## ")[0]


def test_the_commands_of_the_readme_are_those_of_the_command_line() -> None:
    listed = SECTION.partition("The commands:")[2].partition(". ")[0]
    assert re.findall(r"`([a-z-]+)`", listed) == list(COMMANDS)


@pytest.mark.slow
def test_the_script_and_the_processes_run_as_printed(tmp_path: Path) -> None:
    block = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[0]
    script, several, slurm = block.splitlines()
    assert slurm.startswith("sbatch mathsft/recipes/cluster.sbatch ")  # test_slurm runs it
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command, processes in ((script, 1), (several, 2)):
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment() | {"PATH": scripts, "MATHSFT_RUNS": str(tmp_path / "runs")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("saved in") == 1
        told = (tmp_path / "runs" / f"sft-{processes}" / "environment.json").read_text()
        assert f'"processes": {processes},' in told
