"""The install cell changes no package that Colab has preinstalled, so no restart is needed.

pip resolves the requirements against the package list of a real Colab GPU runtime, for its
Python 3.13. Two things are replaced here: the runtime's torch build (by an empty wheel of its
version; its vendor libraries are not in the usual registry), and four packages that exist as
source only (by wheels built here): three that Colab would build, and one that it has.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent
SOURCE_ONLY = (
    *("rouge_score", "sqlitedict", "word2number"),  # lm_eval needs these
    "antlr4-python3-runtime==4.9.3",  # math-verify needs it; the version is Colab's
)
VENDOR = re.compile(r"nvidia-|cuda-|cu\d\d|cupy|cudf|cuml|rapids|libcu|pylibcu|rmm|nx-cu|triton")

pytestmark = [pytest.mark.registry, pytest.mark.slow, pytest.mark.colab]


def pip(*arguments: str, timeout: int = 300) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    if "ConnectionError" in done.stderr or "Failed to establish" in done.stderr:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runtime(data_dir: Path) -> dict[str, str]:
    """Package → version in the runtime."""
    lines = (data_dir / "colab" / "pip-freeze.gpu.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if re.match(r"[A-Za-z0-9]", line) and "==" in line]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


@pytest.fixture(scope="module")
def wheels(runtime: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "-q", "--no-deps", "--wheel-dir", str(folder), *SOURCE_ONLY)
    version = runtime["torch"]  # with its local part, so that pip prefers it to the registry's
    about = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return folder


def resolved(requirements: Path, wheels: Path, folder: Path, constraints: Path) -> dict[str, str]:
    """Packages that pip would install on Colab's Python for ``requirements``, with versions."""
    tags = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")
    platforms = [f"{tag}_x86_64" for tag in tags]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    pip(
        "install", "-q", "--dry-run", "--ignore-installed", "--report", str(folder / "report.json"),
        "--python-version", "3.13", "--implementation", "cp", "--abi", "cp313", "--abi", "abi3",
        *(word for platform in platforms for word in ("--platform", platform)),
        "--only-binary=:all:", "--target", str(folder / "nowhere"), "--find-links", str(wheels),
        "-c", str(constraints), "-r", str(requirements),
        timeout=900,
    )  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    found = [entry["metadata"] for entry in report["install"]]
    return {canonicalize_name(entry["name"]): entry["version"] for entry in found}


def test_our_requirements_change_no_package_of_colab(
    runtime: dict[str, str], wheels: Path, tmp_path: Path
) -> None:
    constraints = tmp_path / "installed.txt"
    kept = [f"{n}=={v.split('+')[0]}" for n, v in runtime.items() if not VENDOR.match(n)]
    constraints.write_text("\n".join(kept) + "\n")
    found = resolved(PROJECT / "requirements.txt", wheels, tmp_path, constraints)
    moved = {n: (runtime[n], v) for n, v in found.items() if runtime.get(n, v) != v}
    assert not moved
    new = sorted(found.keys() - runtime.keys())
    print(f"{len(new)} packages are added: {', '.join(new)}")
    assert {"trl", "lm-eval", "bitsandbytes"} <= set(new)
    assert len(found) - len(new) > 50, "the list of the runtime was not used"
    assert len(new) < 40


def test_the_tested_versions_of_colabs_stack_are_the_ones_it_would_get(
    runtime: dict[str, str],
) -> None:
    """constraints/colab.txt, which we test, is the runtime except for torch and our own tools."""
    lines = (PROJECT / "constraints" / "colab.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    ours = {"torch", "trl", "bitsandbytes", "lm_eval", "nbval", "pytest-xdist", "hypothesis"}
    ours |= {"ruff", "mypy", "nbclient", "nbconvert", "pytest", "jsonargparse", "typeshed_client"}
    ours |= {"math-verify", "latex2sympy2_extended", "shtab", "langdetect", "sqlitedict"}
    ours |= {"datatrove", "faiss-cpu"}
    for name, version in tested.items():
        if name not in ours:
            assert runtime.get(canonicalize_name(name)) == version, name


def install_cell(lesson: Path) -> str:
    return next(c.source for c in nbformat.read(lesson, 4).cells if c.source.startswith("# Colab"))


def test_the_install_cell_adds_the_package_and_changes_no_other(tmp_path: Path) -> None:
    """Run the cell in an environment that has all other packages; ours comes from the checkout."""
    cells = {install_cell(lesson) for lesson in (PROJECT / "notebooks").glob("0*.ipynb")}
    assert len(cells) == 1
    lines = re.findall(r"^    !((?:.*\\\n)*.*)$", cells.pop(), flags=re.M)
    assert len(lines) == 3
    address = re.search(r"https://github\.com/\S+", lines[1])
    assert address is not None
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    # This commit as the release that the cell asks for.
    origin, tag = tmp_path / "origin", f"v{metadata.version('mathsft')}"
    assert f"-b {tag} " in lines[1]
    subprocess.run(["git", "clone", "-q", f"file://{PROJECT}", origin], check=True)
    subprocess.run(["git", "-C", origin, "tag", "-f", tag], check=True, capture_output=True)
    here = f"file://{origin}"
    # Without its own pip and setuptools: like all other packages, they come from outside.
    venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "runtime")]
    subprocess.run(venv, check=True)
    python = tmp_path / "runtime" / "bin" / "python"
    (site,) = (tmp_path / "runtime" / "lib").glob("python*/site-packages")
    parent = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "all_the_rest.pth").write_text(parent + "\n")
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}

    def shell(line: str) -> str:
        text = line.replace("/tmp/", f"{tmp_path}/").replace(address[0], here)
        text = re.sub(r"^pip ", "python -m pip ", text)
        done = subprocess.run(
            text, shell=True, env=environment, capture_output=True, text=True, timeout=600,
            cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def installed() -> set[str]:
        return set(shell("python -m pip list --format=freeze").splitlines())

    before = installed()
    for line in lines:
        shell(line)
    mine = {line for line in installed() ^ before if not line.startswith("mathsft")}
    assert not mine
    assert (site / "mathsft" / "__init__.py").is_file()
    assert str(site) in shell("python -c 'import mathsft; print(mathsft.__file__)'")
