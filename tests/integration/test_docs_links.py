"""Every relative link and anchor of the documentation leads somewhere; the reference names all
public names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

import aiolit
from aiolit import aio

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "aiolit" / "ARCHITECTURE.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s+(\S+)", re.M)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")  # https:, mailto:


def links(page: Path) -> Iterator[str]:
    """Find the targets of a page's links that are in this repository."""
    for found in LINK.finditer(CODE.sub("``", page.read_text())):
        target = found[1] or found[2]
        if not ELSEWHERE.match(target):
            yield target


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        place, _, anchor = unquote(target).partition("#")
        found = page if not place else (page.parent / place).resolve()
        inside = found.is_relative_to(ROOT) and found.exists()
        if not inside or (anchor and found.suffix == ".md" and anchor not in anchors(found)):
            broken.append(target)
    assert not broken


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    """Of the search itself: what it takes for a link and an anchor, and what not."""
    page = tmp_path / "page.md"
    page.write_text(
        '# A `head`, and [more](x.md)\n[one](a.md#b) ![two](c.png "title") `[no](d.md)`\n'
        "```bash\n# no heading\n[no](e.md)\n```\n[site](https://example.com)\n[ref]: f.md\n"
    )
    assert list(links(page)) == ["x.md", "a.md#b", "c.png", "f.md"]
    assert anchors(page) == {"a-head-and-more"}


def test_the_reference_names_every_public_name() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"^::: (\S+)", text, re.M))
    modules = {"aio", "errors"}
    public = {f"aiolit.{name}" for name in set(aiolit.__all__) - modules}
    public |= {f"aiolit.aio.{name}" for name in aio.__all__} | {"aiolit.errors"}
    assert public <= named


def test_every_page_is_in_the_navigation() -> None:
    """MkDocs says so too, when the site is built; this is seen without it."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    docs = ROOT / "docs"
    assert set(re.findall(r": (\S+\.md)$", navigation, re.M)) == {
        str(page.relative_to(docs)) for page in docs.rglob("*.md")
    }
