"""The site, built from the kept notebooks and opened in a real browser at two widths."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import pytest
from browser import served, watched

from mathsft.site import linked, repository, write_site

# Only the newest stack has the packages that build the site.
pytestmark = pytest.mark.same_everywhere
jupytext = pytest.importorskip("jupytext", reason="needs the extra site")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [p.relative_to(ROOT) for p in sorted((ROOT / "notebooks").glob("**/[0-9]*.ipynb"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The built site and what was printed."""
    folder = tmp_path_factory.mktemp("site") / "site"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathsft.site.say", said.append)
        write_site(folder)
    return folder, "\n".join(said)


class Parts(HTMLParser):
    """The links, pictures and identifiers of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.images: dict[str, str] = {}
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "img":
            self.images[given["src"]] = given.get("alt", "")
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loads.append(given.get("src", ""))
        if tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def pages(site: tuple[Path, str]) -> dict[str, Parts]:
    names = (p.relative_to(site[0]).as_posix() for p in sorted(site[0].rglob("*.html")))
    return {name: Parts(site[0] / name) for name in names if not name.startswith("_")}


@pytest.mark.slow
def test_the_site_has_every_notebook_and_document_and_sphinx_warns_of_nothing(
    site: tuple[Path, str], pages: dict[str, Parts]
) -> None:
    documents = [path.relative_to(ROOT) for path in sorted((ROOT / "docs").glob("*.md"))]
    for path in (*NOTEBOOKS, *documents):
        assert path.with_suffix(".html").as_posix() in pages
    assert site[1] == ""
    assert (site[0] / ".nojekyll").exists()  # otherwise GitHub Pages would leave out _static


@pytest.mark.slow
def test_links_between_pages_lead_to_pages_and_places_that_exist(pages: dict[str, Parts]) -> None:
    for name, page in pages.items():
        if name in ("search.html", "genindex.html"):
            continue
        for link in page.links:
            address, place = urldefrag(link)
            if "://" in address or address.startswith("mailto:"):
                continue
            target = unquote(urljoin(name, address)) if address else name
            if target.startswith("_"):
                continue  # the source of a page and pictures: the browser's test asks for them
            assert target in pages, f"{name}: {link}"
            assert not place or unquote(place) in pages[target].ids, f"{name}: {link}"


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere_and_their_pictures_exist(
    site: tuple[Path, str], pages: dict[str, Parts]
) -> None:
    for name, page in pages.items():
        for address in filter(None, page.loads):
            if not address.startswith("data:"):
                assert "//" not in address, f"{name}: {address}"
                path = unquote(urljoin(name, address.partition("?")[0]))
                assert (site[0] / path).exists(), f"{name}: {address}"


@pytest.mark.slow
def test_figures_keep_their_alternative_texts(pages: dict[str, Parts]) -> None:
    for path in NOTEBOOKS:
        book = json.loads((ROOT / path).read_text(encoding="utf-8"))
        outputs = [o for cell in book["cells"] for o in cell.get("outputs", [])]
        kept = [o.get("metadata", {}).get("image/png", {}).get("alt") for o in outputs]
        shown = pages[path.with_suffix(".html").as_posix()].images.values()
        assert set(filter(None, kept)) <= set(shown)
    for address, text in pages["index.html"].images.items():
        assert text
        assert text != address


@pytest.mark.slow
def test_each_notebook_has_a_button_that_opens_it_in_colab(pages: dict[str, Parts]) -> None:
    colab = repository().replace("https://github.com", "https://colab.research.google.com/github")
    for path in NOTEBOOKS:
        links = pages[path.with_suffix(".html").as_posix()].links
        assert f"{colab}/blob/main/{path.as_posix()}" in links


@pytest.fixture(scope="module")
def opened(chromium: Any, site: tuple[Path, str]) -> Iterator[tuple[Any, str]]:
    with served(site[0]) as address:
        yield chromium, address


@pytest.mark.slow
def test_each_page_opens_in_a_browser_without_an_error_and_fits_a_phone_and_a_screen(
    opened: tuple[Any, str], pages: dict[str, Parts]
) -> None:
    browser, address = opened
    seen = watched(browser.new_context(), address)
    too_wide = []
    for name in pages:
        for width in (390, 1280):
            seen.page.set_viewport_size({"width": width, "height": 844})
            if width == 390:
                seen.page.goto(f"{address}/{name}", wait_until="load")
            wide = seen.page.evaluate("document.documentElement.scrollWidth")
            too_wide += [f"{name}: {wide} of {width} pixels"] * (wide > width)
    assert too_wide == []
    assert seen.wrong == []


@pytest.mark.slow
def test_pages_are_dark_where_the_system_is(opened: tuple[Any, str]) -> None:
    browser, address = opened
    seen = watched(browser.new_context(color_scheme="dark"), address)
    for name in ("index.html", NOTEBOOKS[0].with_suffix(".html").as_posix()):
        seen.page.goto(f"{address}/{name}", wait_until="load")
        colour = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60
    assert seen.wrong == []


@pytest.mark.slow
def test_the_search_finds_a_word_of_a_lesson(opened: tuple[Any, str]) -> None:
    browser, address = opened
    seen = watched(browser.new_context(), address)
    seen.page.goto(f"{address}/search.html?q=tokenizer")
    seen.page.wait_for_selector("#search-results li a", timeout=30_000)
    seen.page.wait_for_function("document.querySelectorAll('#search-results li').length > 3")
    found = seen.page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any("/notebooks/" in link for link in found)
    assert seen.wrong == []


PREDICT = """# A lesson

**Predict.** Which is larger?

<details>
<summary>Answer</summary>

The *second*, because of $x_1 < x_2$.

</details>

$$\\begin{aligned} a &= \\frac{1}{G} \\sum_{i=1}^{G} r_i \\\\ b &= \\pi_\\theta \\end{aligned}$$
"""


@pytest.mark.slow
def test_answers_are_folded_printed_open_and_formulas_are_drawn(
    chromium: Any, tmp_path: Path
) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(PREDICT)])
    nbformat.write(book, tmp_path / "00_a.ipynb")
    site = tmp_path / "site"
    write_site(site, notebooks={"notebooks/00_a": tmp_path / "00_a.ipynb"}, root=tmp_path)
    with served(site) as address:
        page = chromium.new_page()
        page.goto(f"{address}/notebooks/00_a.html")
        answer = page.locator("details em")
        assert not answer.is_visible()
        page.emulate_media(media="print")
        assert answer.is_visible()
        page.emulate_media(media="screen")
        page.click("summary")
        assert answer.is_visible()
        rows = page.locator("math[display=block] mtr")
        assert rows.count() == 2
        assert rows.nth(1).bounding_box()["y"] > rows.nth(0).bounding_box()["y"]


def test_links_lead_to_pages_of_the_site_or_to_the_repository() -> None:
    address = repository()
    text = (
        "[a](../README.md#start) [b](data.md) [c](../mathsft/site.py) [d](../minimal) [e](#here) "
        f"[f]({address}/blob/main/docs/data.md#rows) [![g](https://a.org/b.svg)](https://a.org) "
        "[h](gone.md) ![i](lesson01.png)"
    )
    assert linked(text, "docs/lessons.md", {"docs/data.md"}, ROOT) == (
        f"[a](../index.md#start) [b](data.md) [c]({address}/blob/main/mathsft/site.py) "
        f"[d]({address}/tree/main/minimal) [e](#here) [f](data.md#rows) [g](https://a.org) "
        "[h](gone.md) ![i](lesson01.png)"
    )


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        write_site(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.as_posix())
def test_a_notebook_and_its_python_twin_have_the_same_cells(path: Path) -> None:
    twin = ROOT / "notebooks" / "percent" / path.relative_to("notebooks").with_suffix(".py")
    book = nbformat.read(ROOT / path, as_version=4)
    assert twin.exists(), "make twins writes it"
    read = jupytext.read(twin)
    assert [(c.cell_type, c.source, c.metadata.get("tags")) for c in read.cells] == [
        (c.cell_type, c.source, c.metadata.get("tags")) for c in book.cells
    ], "make twins writes it again"
    assert not re.search(r"^# ?-{3}", twin.read_text(encoding="utf-8"))  # no version in it
