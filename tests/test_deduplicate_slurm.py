"""Near duplicates of many files: the pipeline keeps the rows that `deduplicate` keeps.

What Slurm does is simulated: sbatch, srun and scontrol are small scripts in this test. sbatch runs
a job's tasks one after the other, as bash runs the script that a cluster would get.
"""

import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mathsft import cli
from mathsft.data.deduplication import deduplicate
from mathsft.data.near_duplicates import bands
from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.recipes.deduplicate_slurm import deduplicate_files

pytestmark = pytest.mark.same_everywhere

SBATCH = r"""#!/bin/bash
script=${@: -1}
bash -n "$script" || exit 1
number=$(($(ls "$JOBS" | wc -l) + 1))
cp "$script" "$JOBS/$number"
echo "$*" > "$JOBS/$number.arguments"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
export RUN_OFFSET=0 SLURM_NODELIST=here
if ! grep -q merge_stats "$script"; then
    for task in $(seq 0 "$last"); do
        SLURM_ARRAY_TASK_ID=$task bash "$script" >> "$JOBS/$number.out" 2>&1 || exit 1
    done
fi
echo "Submitted batch job $number"
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == -* ]]; do [ "$1" = -n ] && shift; shift; done\nexec "$@"\n'
SCONTROL = "#!/bin/bash\necho localhost\n"


def files(folder: Path, *, count: int, parts: int) -> list[dict[str, Any]]:
    """Rows with copies, in several files; returned in the files' order."""
    rows: list[dict[str, Any]] = list(tiny_gsm_rows("train", count))
    rows += [{**row, "question": row["question"] + " Why?"} for row in rows[::4]]
    rows += [{**row, "question": row["question"].upper()} for row in rows[::5]]
    random.Random(0).shuffle(rows)
    rows[3] = {"question": "", "answer": "1\n#### 1"}
    for part in range(parts):
        lines = [json.dumps(row) + "\n" for row in rows[part::parts]]
        (folder / f"part{part}.jsonl").write_text("".join(lines))
    return [row for part in range(parts) for row in rows[part::parts]]


def kept(folder: Path) -> list[str]:
    found = sorted(path for path in folder.glob("0*.jsonl"))
    return sorted(line for path in found for line in path.read_text().splitlines())


def test_the_pipeline_keeps_the_rows_of_one_call_however_many_tasks(tmp_path: Path) -> None:
    rows = files(tmp_path, count=120, parts=5)
    one = deduplicate(rows, report=tmp_path / "groups.jsonl")
    assert len(one.removed) >= 40
    for tasks in (1, 3):
        folder = tmp_path / f"tasks{tasks}"
        deduplicate_files(str(tmp_path / "part*.jsonl"), folder, tasks=tasks)
        assert kept(folder) == sorted(map(json.dumps, one.rows))
        report = (folder / "groups.jsonl").read_text()
        assert report == (tmp_path / "groups.jsonl").read_text()
        assert len(list(folder.glob("0*.jsonl"))) == tasks


def test_a_second_call_resumes_and_other_settings_are_refused(tmp_path: Path) -> None:
    files(tmp_path, count=10, parts=2)
    source, folder = str(tmp_path / "part*.jsonl"), tmp_path / "out"
    deduplicate_files(source, folder, threshold=1.0)
    (folder / "00000.jsonl").write_text("as it was\n")
    deduplicate_files(source, folder, threshold=1.0)  # all tasks are complete
    assert (folder / "00000.jsonl").read_text() == "as it was\n"
    with pytest.raises(ValueError, match=r"other settings.*\(threshold\)"):
        deduplicate_files(source, folder, threshold=0.9)
    (tmp_path / "part1.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match=r"have changed since \(files\)"):
        deduplicate_files(source, folder, threshold=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "nothing*.jsonl"}, "there is no such file"),
        ({"tasks": 3}, "--tasks 3: there are 2 files"),
        ({"output": "."}, "part0.jsonl of --source is there"),
        ({"tasks": 0}, "tasks=0"),
        ({"threshold": 0}, "threshold=0"),
        ({"workers": 0.5}, "workers=0.5"),
    ],
)
def test_bad_settings_are_one_line(
    tmp_path: Path, changes: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, count=4, parts=2)
    monkeypatch.chdir(tmp_path)
    given = {"source": str(tmp_path / "part*.jsonl"), "output": tmp_path / "out", **changes}
    with pytest.raises(ValueError, match=message):
        deduplicate_files(**given)
    assert not (tmp_path / "out").exists()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "part0.jsonl").write_text('{"text": "x"}\n{"text": 3}\n')
    with pytest.raises(ValueError, match=r"part0.jsonl, row 2"):
        deduplicate_files(str(tmp_path / "part*.jsonl"), tmp_path / "out")


@pytest.mark.slow
def test_slurm_gets_four_jobs_that_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = files(tmp_path, count=30, parts=2)
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("JOBS", str(jobs))
    path = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    line = ["--source", str(tmp_path / "part*.jsonl"), "--output", str(tmp_path / "out")]
    line += ["--partition", "cpu", "--threshold", "1.0", "--memory_gb", "3"]
    cli.main(["deduplicate-files", *line, "--env_command", "export A=1"])
    assert bands(1.0)[0] == 1  # so the second stage has one task
    assert kept(tmp_path / "out") == sorted(map(json.dumps, deduplicate(rows, threshold=1.0).rows))
    scripts = {
        found: (jobs / number.stem).read_text()
        for number in jobs.glob("*.arguments")
        for found in re.findall(r"--job-name=deduplicate-(\w+)", (jobs / number.stem).read_text())
        if "merge_stats" not in (jobs / number.stem).read_text()
    }
    assert {*scripts} == {"sign", "compare", "choose", "write"}
    for script in scripts.values():
        for part in ("--partition=cpu", "--mem-per-cpu=3G", "--time=04:00:00", "export A=1"):
            assert part in script
    asked = " ".join(path.read_text() for path in jobs.glob("*.arguments"))
    assert asked.count("--dependency=afterok:") == 3


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"deduplicate-files: --source none\*: there is no such"):
        cli.main(["deduplicate-files", "--source", "none*", "--output", str(tmp_path / "out")])
