"""The pages run as printed, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("README.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(text: str, page: str) -> None:
    """Run the Python blocks of a page in one namespace; a failure names the page and the line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], page, "exec"), namespace)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def leads_somewhere(link: str, page: Path) -> bool:
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in anchors(target.read_text(encoding="utf-8"))


def broken_links(page: Path) -> list[str]:
    links = LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return [link for link in links if "://" not in link and not leads_somewhere(link, page)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page.read_text(encoding="utf-8"), name(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_tests_that_a_page_names_exist(page):
    for test, file in re.findall(r"\[(test_\w+)\]\(([^)]+\.py)\)", page.read_text(encoding="utf-8")):
        assert f"\ndef {test}(" in (page.parent / file).read_text(encoding="utf-8"), f"{file} has no {test}"


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "index.md"
    listed = LINK.findall(index.read_text(encoding="utf-8"))
    assert [page.name for page in PAGES if page.parent == index.parent and page.name not in [*listed, "index.md"]] == []


def test_the_python_of_the_theory_is_found():
    assert len(BLOCK.findall(ROOT.joinpath("docs", "theory.md").read_text(encoding="utf-8"))) > 5


def test_blocks_share_a_namespace_and_a_failure_says_where():
    page = "# A page\n\n```python\na = 1\n```\n\ntext\n\n```text\nnot python\n```\n\n```python\nassert a == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run(page, "a page")
    where = caught.traceback[-1]
    assert (str(where.path), where.lineno + 1) == ("a page", 14)


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One, two: `three`\n[a](page.md) [b](#one-two-three) [c](#four) [d](gone.md) [e](https://x.org)\n"
    )
    assert broken_links(page) == ["#four", "gone.md"]
