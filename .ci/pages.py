"""Hooks of `make docs`: pages that stand outside docs/, and Markdown as a forge reads it.

A page is written for the forge, where a link is a path in the repository: the README says docs/reruns.md, and a page of
docs/ says reruns.md or ../README.md. On the site all pages lie in one folder, and links are changed to fit.
"""

import os.path
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # page of the site: its file in the repository
    "index.md": "README.md",
    "what-a-run-writes.md": "results/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
ON_SITE = {source: page for page, source in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")  # of [text](path#anchor) the path; no address, no anchor alone
ELSEWHERE = re.compile(r"<(?:link|script|img|iframe)\b[^>]*?\b(?:href|src)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files, config):
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, **_):
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return "\n".join(with_wide_lists(with_links_of_the_site(markdown, source).split("\n")))


def on_post_page(output, page, **_):
    """Raise ValueError for a page that would load something from elsewhere: the site is read offline, too."""
    if found := ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output


def with_links_of_the_site(markdown: str, source: str) -> str:
    def on_site(link: re.Match) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), link[1]))
        return ON_SITE.get(target, target.removeprefix("docs/"))

    return LINK.sub(on_site, markdown)


def with_wide_lists(lines: list[str]) -> Iterator[str]:
    """Lists as Python-Markdown has them: what belongs to an item is indented by four, where a forge takes the width of
    `1. `, and an empty line stands before a list and between items of several paragraphs."""
    marker, apart, fenced, before = 0, False, False, ""
    for line in lines:
        fenced ^= line.startswith("```")
        item = None if fenced else re.match(r"(?:[-*]|\d+\.) +", line)
        if item:
            if before and (apart or not marker):
                yield ""
            marker = item.end()
        elif line and not line.startswith(" "):
            marker, apart = 0, False
        apart |= bool(marker) and not line
        inside = marker and not item and line.startswith(" " * marker)
        yield " " * (4 - marker) + line if inside else line
        before = line
