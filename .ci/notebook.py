"""docs/tutorial.md as a notebook, docs/tutorial.ipynb: its Python is code, all else text: `python .ci/notebook.py`"""

import re
from pathlib import Path

import nbformat

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, NOTEBOOK = DOCS / "tutorial.md", DOCS / "tutorial.ipynb"


def cells(markdown: str) -> list[tuple[str, str]]:
    """Kind (markdown, code) and text of each cell, in order."""
    parts = re.split(r"^```python\n(.*?)^```\n", markdown, flags=re.MULTILINE | re.DOTALL)
    return [(("markdown", "code")[i % 2], part.strip()) for i, part in enumerate(parts) if part.strip()]


def notebook(markdown: str) -> str:
    new = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    made = [new[kind](text, id=f"cell-{i}") for i, (kind, text) in enumerate(cells(markdown))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=made, metadata=kernel)) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
