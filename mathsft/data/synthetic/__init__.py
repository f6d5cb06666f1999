"""Problems made by rule, so that every lesson has real input without a network.

``tiny-gsm`` has GSM8K's schema and voice, ``tiny-mathqa`` has MathQA's. Both go
through the parsers that read the real files. ``python -m mathsft.models.tiny.pretrain``
draws its text from the split ``pretrain``, which no lesson uses.
"""

from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows

__all__ = ["tiny_gsm_rows", "tiny_mathqa_rows"]
