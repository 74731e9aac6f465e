"""What the build of the site adds to the pages: tables and figures from the code, pictures, reports, formulas."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import figures  # noqa: E402
import tables  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that the menu does not name among the guides, by their headings.

    Args:
        config: the site's.

    Returns:
        The same.
    """
    guides: list[Any] = next(entry["Guides"] for entry in config.nav or [] if "Guides" in entry)
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    pages = (page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in named)
    guides += [{page.read_text().split("\n", 1)[0].removeprefix("# "): page.name} for page in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of examples/, the written reports and the drawn figures.

    Args:
        files: the pages and pictures in docs/.
        config: the site's.

    Returns:
        The same with more.
    """
    for folder in ("pictures", "reports"):
        for path in sorted((ROOT / "examples" / folder).iterdir()):
            if path.suffix in {".png", ".md"}:
                files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    for name, content in figures.drawn().items():
        files.append(File.generated(config, f"figures/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables that come from the code.

    Args:
        markdown: a page.

    Returns:
        The page with each `<!-- table: NAME -->` replaced.
    """
    return re.sub(r"<!-- table: (\w+) -->", lambda found: tables.TABLES[found[1]](), markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Turn formulas into MathML, which browsers show without a script.

    Args:
        content: a page's HTML, formulas as `\(...\)` and `\[...\]` of class arithmatex.

    Returns:
        The HTML.
    """
    from latex2mathml.converter import convert

    def formula(found: re.Match[str]) -> str:
        block = found[1] == "div"
        tex = html.unescape(found[2]).strip().removeprefix(r"\[" if block else r"\(")
        return convert(tex.removesuffix(r"\]" if block else r"\)"), display="block" if block else "inline")

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', formula, content, flags=re.DOTALL)
