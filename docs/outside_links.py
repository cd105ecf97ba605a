"""Links from the documents to files of the repository that are not on the site, as plain names."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """`[text](../file)` becomes `text (file in the repository)`, unless the file is on the site."""

    def name(link: re.Match[str]) -> str:
        if page.file.src_uri.count("/") and not link[2].startswith(("benchmarks", "examples")):
            return link[0]  # from a folder of the documents to another
        return f"{link[1]} (`{link[2]}` in the repository)"

    return _OUTSIDE.sub(name, markdown)
