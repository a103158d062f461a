"""The pages' formulas and links leave nothing that a browser, or a reader, could not follow."""

import importlib.util
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def rendered(markdown: str) -> str:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return str(hooks.on_page_markdown(markdown))


def test_formulas_become_mathml_and_code_stays_as_it_is() -> None:
    page = rendered(
        "From $r_0$ on:\n\n```math\nx = \\arg\\min_k y\n```\n\n`a $b$ c` costs 5$ or 6$.\n"
    )

    assert page.count("<math") == 2
    assert "<msub><mi>r</mi><mn>0</mn></msub>" in page
    assert "`a $b$ c` costs 5$ or 6$." in page


def test_no_formula_of_the_method_keeps_a_command() -> None:
    formulas = re.findall(r"<math.*?</math>", rendered((DOCS / "method.md").read_text()))

    assert len(formulas) > 50
    assert not [formula for formula in formulas if "\\" in formula]


def test_links_that_leave_the_pages_become_names_and_others_stay() -> None:
    page = rendered("See [the loop](../src/bbqrec/training/loop.py) and [data](data.md#splits).")

    assert page == "See `src/bbqrec/training/loop.py` and [data](data.md#splits)."


def test_the_links_that_leave_the_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((\.\./[^)#]+)", page.read_text()):
            assert (DOCS / target).exists(), f"{page.name}: {target}"
