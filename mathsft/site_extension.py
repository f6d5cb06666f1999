"""What the site adds to Sphinx: formulas as MathML, and the alternative texts of figures.

Sphinx loads this module by its name. Browsers draw MathML themselves, so a page
with formulas needs no script, no font and no network.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx


def setup(app: "Sphinx") -> dict[str, Any]:
    """Register the renderer of formulas and the hook for figures; Sphinx calls this."""
    app.add_config_value("figure_texts", {}, "env", types=frozenset({dict}))
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("doctree-read", _give_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def figure_texts(cells: list[Any]) -> Iterator[tuple[str, str]]:
    """The name of each figure's file and the text that `mathsft.show_figure` kept with it.

    Args:
        cells: a notebook's. myst-nb names the file of a figure by its content.
    """
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        text = output.get("metadata", {}).get("image/png", {}).get("alt")
        if text:
            content = base64.b64decode(output["data"]["image/png"])
            yield f"{hashlib.sha256(content).hexdigest()}.png", text


def _give_texts(app: "Sphinx", doctree: "Element") -> None:
    from docutils import nodes

    for image in doctree.findall(nodes.image):
        text = app.config.figure_texts.get(Path(image["uri"]).name)
        if text and not image.get("alt"):
            image["alt"] = text


def _inline(translator: Any, node: "Element") -> None:
    _write(translator, node, display=False)


def _display(translator: Any, node: "Element") -> None:
    _write(translator, node, display=True)


def _write(translator: Any, node: "Element", *, display: bool) -> None:
    """Write a formula; one that cannot be read stays as it is, with a warning that names it."""
    from docutils.nodes import SkipNode
    from math_core import LatexError, LatexToMathML
    from sphinx.util import logging

    formula = node.astext()
    try:
        reader = LatexToMathML(annotation=True, fancy_error=False)
        text = reader.convert_with_local_state(formula, displaystyle=display)
    except LatexError as error:
        logging.getLogger(__name__).warning("%s: %s", formula, error, location=node)
        text = f"<code>{translator.encode(formula)}</code>"
    translator.body.append(f'<div class="math">{text}</div>' if display else text)
    raise SkipNode
