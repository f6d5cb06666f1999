"""One made-up row in each schema."""

import json
from pathlib import Path
from typing import Any

GSM = {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"}
CHAT = {
    "INSTRUCTION": "This math problem has got me stumped: Ann buys 2 pens at $3 and pays cash. "
    "What does she pay? Can you show me the way?",
    "RESPONSE": "She pays 2 * 3 = $6.",
    "SOURCE": "grade-school-math",
}
MATHQA = {
    "Problem": "what is 2 + 3 ?",
    "Rationale": "2 + 3 = 5 . answer : b",
    "options": "a ) 4 , b ) 5 , c ) 1 / 2 , d ) $ 7 , e ) 12 hours",
    "correct": "b",
    "annotated_formula": "add(2,3)",
    "linear_formula": "add(n0,n1)|",
    "category": "general",
}
OWN = {
    "question": "What is 2 + 3?",
    "solution": "It is 5.",
    "answer": "5",
    "choices": ["4", "5"],
    "label": 1,
    "source": "mine",
}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
