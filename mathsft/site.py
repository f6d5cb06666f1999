"""The course as a static site: lessons with their outputs, solutions, README and documents.

Sphinx builds it offline, with myst-nb for the notebooks and sphinx-book-theme for navigation,
search, Colab buttons, dark and phone layouts. The pages load nothing from elsewhere.
"""

import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import metadata
from io import StringIO
from pathlib import Path
from typing import Any

from mathsft.models.folders import replaced_folder
from mathsft.processes import say
from mathsft.site_extension import figure_texts

ROOT = Path(__file__).resolve().parent.parent
_STATIC = Path(__file__).parent / "site_static"
# Beside docs/*.md; README.md is the first page. Links to all other files lead to the repository.
_MORE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "mathsft/models/tiny/README.md",
)
_LINK = re.compile(r"(?<=\]\()(?!#|mailto:)([^)\s#]+)(?=[)#])")
_BADGE = re.compile(r"\[!\[([^]]*)\]\(https://[^)]*\)\]")


def write_site(
    output_dir: str | Path = "runs/site",
    *,
    notebooks: Mapping[str, Path] | None = None,
    run: str = "",
    files: Sequence[Path] = (),
    root: Path = ROOT,
) -> Path:
    """Build the site and return its ``index.html``, which opens without a server.

    Args:
        output_dir: where the site goes; a site that is there is replaced as a whole.
        notebooks: the page of each notebook, such as ``notebooks/01_sft``, and its file. Default:
            the lessons and the solutions, as they are kept.
        run: Markdown of a page about the run that made the outputs; it comes first in the
            navigation.
        files: copied beside ``index.html``; ``run`` can link them.
        root: the repository: README, documents, and what their links lead to.

    What Sphinx warns of, such as a link that leads nowhere, is printed.

    Raises:
        ValueError: the folder holds other files.
        ImportError: the packages that build the site are missing.
    """
    check_site_can_be_built()
    output_dir = Path(output_dir)
    others = output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir()))
    if others and not (output_dir / "searchindex.js").exists():  # a site has one
        raise ValueError(f"{output_dir} holds other files: choose an empty folder for the site")
    if notebooks is None:
        found = sorted((root / "notebooks").glob("**/[0-9]*.ipynb"))
        notebooks = {path.relative_to(root).with_suffix("").as_posix(): path for path in found}
    with tempfile.TemporaryDirectory() as folder:
        texts = _write_sources(Path(folder), notebooks, run, root)
        with replaced_folder(output_dir, keep_others=False) as new:
            _build(Path(folder), new, texts)
            for file in files:
                shutil.copyfile(file, new / file.name)
    return output_dir / "index.html"


def check_site_can_be_built() -> None:
    """Raise ImportError, which names the extra, if a package that builds the site is missing."""
    try:
        import math_core  # noqa: F401
        import myst_nb  # noqa: F401
        import sphinx_book_theme  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'mathsft[site]' brings it") from error


def repository() -> str:
    """The public address of the repository, as pyproject.toml gives it."""
    named = (line.split(", ") for line in metadata("mathsft").get_all("Project-URL", []))
    return next(address for name, address in named if name == "Repository")


def _write_sources(
    folder: Path, notebooks: Mapping[str, Path], run: str, root: Path
) -> dict[str, str]:
    """Write what Sphinx reads; return the texts of the figures by the names of their files."""
    import nbformat

    found = [path.relative_to(root) for path in sorted((root / "docs").glob("*.md"))]
    found += [Path(name) for name in _MORE if (root / name).exists()]
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else "# mathsft\n"
    order = {path: text.find(path.as_posix()) for path in found}  # as the README names them
    documents = sorted(found, key=lambda path: (order[path] < 0, order[path]))
    pages = {f"{name}.ipynb" for name in notebooks} | {path.as_posix() for path in documents}
    texts: dict[str, str] = {}
    for name, notebook in notebooks.items():
        book = nbformat.read(notebook, as_version=4)
        texts |= figure_texts(book.cells)
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, f"{name}.ipynb", pages, root)
        _write(folder / f"{name}.ipynb", nbformat.writes(book))
    for path in documents:
        given = (root / path).read_text(encoding="utf-8")
        _write(folder / path, linked(given, path.as_posix(), pages, root))
    for image in (root / "docs").glob("*.png"):
        shutil.copyfile(image, folder / "docs" / image.name)
    if run:
        _write(folder / "run.md", run)
    first = linked(text, "README.md", pages, root)
    _write(folder / "index.md", first + _navigation(notebooks, documents, run))
    return texts


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _navigation(notebooks: Mapping[str, Path], documents: Sequence[Path], run: str) -> str:
    solutions = [name for name in notebooks if "/solutions/" in name]
    parts = {
        "This run": ["run"] if run else [],
        "Lessons": [name for name in notebooks if name not in solutions],
        "Solutions": solutions,
        "Documents": [path.with_suffix("").as_posix() for path in documents],
    }
    trees = []
    for caption, names in parts.items():
        if names:
            listed = "\n".join(names)
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n")
    return "\n\n" + "\n".join(trees)


def linked(text: str, page: str, pages: Collection[str], root: Path) -> str:
    """Markdown whose links lead to pages of the site, and otherwise to the repository.

    Args:
        text: of one page. A badge, which is a picture from elsewhere, becomes a link in words.
        page: the path of the page in the repository.
        pages: the paths of all pages but the README.
        root: the repository. A link that leads to nothing in it stays, and Sphinx names it.
    """
    address = repository()
    here = posixpath.dirname(page)

    def target(found: re.Match[str]) -> str:
        link = found[1]
        for kind in ("blob", "tree"):
            if link.startswith(f"{address}/{kind}/main/"):
                path = link.removeprefix(f"{address}/{kind}/main/")
                break
        else:
            if "://" in link:
                return link
            path = posixpath.normpath(posixpath.join(here, link))
        if path == "README.md":
            return posixpath.relpath("index.md", here or ".")
        if path in pages or path.endswith(".png"):
            return posixpath.relpath(path, here or ".")
        if (root / path).exists():
            return f"{address}/{'tree' if (root / path).is_dir() else 'blob'}/main/{path}"
        return link

    return _LINK.sub(target, _BADGE.sub(r"[\1]", text))


def _build(sources: Path, output_dir: Path, texts: Mapping[str, str]) -> None:
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    address = repository()
    settings: dict[str, Any] = {
        "project": "mathsft",
        "html_title": "mathsft",
        "author": "",
        "html_show_copyright": False,
        "root_doc": "index",
        "extensions": ["myst_nb", "mathsft.site_extension", "sphinx.ext.githubpages"],
        "nb_execution_mode": "off",  # the notebooks have their outputs
        "nb_merge_streams": True,
        # "!pip install" is no Python: such a cell is coloured all the same.
        "suppress_warnings": ["misc.highlighting_failure"],
        "nb_ipywidgets_js": {},  # it would load scripts from elsewhere
        "myst_enable_extensions": ["dollarmath", "amsmath"],
        "myst_heading_anchors": 4,
        "html_math_renderer": "mathml",
        "figure_texts": dict(texts),
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {
            "repository_url": address,
            "repository_branch": "main",
            "use_repository_button": True,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
            "navigation_with_keys": False,
            "show_navbar_depth": 1,
            "show_toc_level": 2,
            "navbar_persistent": [],  # the search is in the sidebar
        },
        "html_context": {"default_mode": "auto"},  # without it the theme reports an error
        "html_static_path": [str(_STATIC)],
        "html_css_files": ["site.css"],
        "html_favicon": str(_STATIC / "favicon.svg"),
        "exclude_patterns": [".doctrees"],
    }
    warnings = StringIO()
    doctrees = sources / ".doctrees"
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            sources, None, output_dir, doctrees, "html", settings,
            status=None, warning=warnings, freshenv=True,
        )  # fmt: skip
        app.build()
    for line in dict.fromkeys(warnings.getvalue().splitlines()):
        say(line.replace(f"{sources}{os.sep}", ""))


if __name__ == "__main__":
    print(f"Open {write_site()}")
