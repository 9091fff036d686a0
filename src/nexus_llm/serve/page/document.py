"""The page as it is served: one document, put together at start-up, under a policy that allows it and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

SCRIPTS = ("server_calls.js", "rendering.js", "measuring.js", "settings.js", "sharing.js", "chat.js")
"""Parts of the one script, in the order in which they need one another."""


def read_page() -> str:
    """The whole page as HTML, from the files of this package."""
    folder = resources.files("nexus_llm.serve.page")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    return one_document(read("page.html"), style=read("page.css"), script="\n".join(map(read, SCRIPTS)))


def one_document(html: str, *, style: str, script: str) -> str:
    """`html` with the style and the script in its empty elements.

    >>> one_document("<style></style><script></script>", style="p {}", script="go()")
    '<style>p {}</style><script>go()</script>'

    Raises:
        ValueError: an element is missing or not empty, or a part would end its element too early.
    """
    for tag, content in (("style", style), ("script", script)):
        place = f"<{tag}></{tag}>"
        if html.count(place) != 1:
            raise ValueError(f"the page needs exactly one empty {place}")
        if f"</{tag}" in content.lower():
            raise ValueError(f"the {tag} of the page carries the end of its own element")
        html = html.replace(place, f"<{tag}>{content}</{tag}>")
    return html


def page_headers(page: str) -> dict[str, str]:
    """Response headers of the page.

    Only its own script and style run, by their hashes; it talks to this server alone; and no text can become HTML in
    it, because trusted types are demanded and none exist (W3C, Content Security Policy Level 3 and Trusted Types).
    """
    policy = (
        f"default-src 'none'; script-src {_hashes(page, 'script')}; style-src {_hashes(page, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _hashes(page: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
