"""What mkdocs does not do by itself: formulas without a script, and links that leave docs/.

Pages are written for GitHub first. Formulas become MathML, which browsers draw themselves, and a
link to a source file becomes the file's name.
"""

import re
from typing import Any

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^```math\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<![\\$`\w])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w$`])")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")
_FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = _BLOCK.sub(lambda found: f"\n{_mathml(found[1], 'block')}\n", markdown)
    parts = _FENCE.split(markdown)  # every second part is code
    parts[::2] = [
        _OUTSIDE.sub(lambda found: f"`{found[2]}`", _INLINE.sub(_inline, part))
        for part in parts[::2]
    ]
    return "".join(parts)


def _inline(found: re.Match[str]) -> str:
    # In a span: a line must not begin with what Markdown takes for a block.
    return f"<span>{_mathml(found[1], 'inline')}</span>"


def _mathml(formula: str, display: str) -> str:
    formula = formula.replace(r"\arg\min", r"\mathrm{arg\,min}")
    return str(convert(" ".join(formula.split()), display=display)).replace("\n", "")
