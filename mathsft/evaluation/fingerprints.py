"""Which weights were evaluated, in sixteen letters: names do not tell."""

import hashlib
import json
from typing import Any

from peft import PeftModel

from mathsft.models.adapter_checks import adapter_state, base_of
from mathsft.models.identity import base_identity


def fingerprints(model: Any) -> tuple[str, str]:
    """Of the base's weights and of the adapter's ("" without one).

    The base's comes from eight values of every tensor (`mathsft.models.identity`), as they are
    in its dtype; the adapter's from all of its values.
    """
    adapter = ""
    base = model
    if isinstance(model, PeftModel):
        digest = hashlib.sha256()
        for key, tensor in sorted(adapter_state(model).items()):
            digest.update(key.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        adapter = digest.hexdigest()[:16]
        base = base_of(model)
    samples = json.dumps(base_identity(base)["samples"], sort_keys=True)
    return hashlib.sha256(samples.encode()).hexdigest()[:16], adapter
