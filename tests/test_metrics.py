"""The public names of the measures: all of them documented, on the page and where they are defined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lashley import metrics, stats

DOCS = Path(__file__).parents[1] / "docs"
PUBLIC = {name: getattr(room, name) for room in (metrics, stats) for name in room.__all__}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.islower()])
def test_a_page_names_the_function(name: str) -> None:
    pages = [DOCS.joinpath(page).read_text(encoding="utf-8") for page in ("measures.md", "forgetting.md")]
    assert any(f"`{name}`" in page or f"{name}(" in page for page in pages)


@pytest.mark.parametrize(("name", "thing"), PUBLIC.items(), ids=PUBLIC)
def test_it_is_documented_where_it_is_defined(name: str, thing: Any) -> None:
    assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), "the docstring is the one that Python made"


MEASURES = """
accuracy_gaps auroc dimensional_alignment head_probe linear_cka linear_probe mia_efficacy minibatch_cka mlp_probe
nearest_centre nmi nmi_labels rank_correlation tow
"""


@pytest.mark.parametrize("name", MEASURES.split())
def test_a_measure_says_its_range_and_its_direction(name: str) -> None:
    text = PUBLIC[name].__doc__.lower()
    assert "range" in text
    assert "direction" in text or name in ("nmi_labels", "rank_correlation")  # what is good depends on what they are of
