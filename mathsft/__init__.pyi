"""The public names with their types, for editors and type checkers. A test keeps them complete."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mathsft.data.answers import extract_answer as extract_answer
from mathsft.data.answers import same_answer as same_answer
from mathsft.data.choices import add_choices as add_choices
from mathsft.data.contamination import overlap as overlap
from mathsft.data.contamination import without_test_rows as without_test_rows
from mathsft.data.formulas import formula_value as formula_value
from mathsft.data.formulas import formula_verdict as formula_verdict
from mathsft.data.local_files import read_rows as read_rows
from mathsft.data.mathqa import clean_choices as clean_choices
from mathsft.data.mathqa import official_choices as official_choices

# Former names, which work until the next release.
free = free_memory
mix = mix_datasets
policy = device_defaults
report = write_report
wilson = wilson_interval

def option_logprobs(model: Any, batch: Mapping[str, Tensor], *, wrapped: Any = None) -> Tensor: ...
