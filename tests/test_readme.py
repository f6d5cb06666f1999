"""The README is true: its links lead somewhere, its commands exist, its script runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "mathsft" / "models" / "tiny" / "README.md"


@pytest.mark.parametrize("path", [ROOT / "README.md", CARD], ids=["readme", "model card"])
def test_links_inside_the_repository_lead_to_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)(?:\S+=\S+ )?make ([a-z-]+)", README, re.MULTILINE))
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
    assert re.search(r"tiny \+ mine against base: [+-]\d+\.\d points", done.stdout), done.stdout
    assert (tmp_path / "report.html").is_file()
