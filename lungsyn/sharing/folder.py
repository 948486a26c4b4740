"""The folder that is shared: made whole or not at all, with checksums and what Zenodo asks for."""

import hashlib
import html
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.sharing.terms import Terms
from lungsyn.sharing.writing import KEYWORDS, as_yaml
from lungsyn.volume.files import CANNOT_WRITE, write_json, write_text

CHECKSUMS = "SHA256SUMS"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that becomes it on success and vanishes on failure. Raises InputError where there is
    something already, which would be shared, too, or where nothing can be written."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists: name a new folder, since all that lies in it would be shared")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        if reason := CANNOT_WRITE.get(error.errno or 0):
            raise InputError(f"{path} cannot be written, {reason}; then give the same command again") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of all files below ``folder``, as ``sha256sum -c`` reads it."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    write_text(folder / CHECKSUMS, "".join(lines))


def write_card(folder: Path, metadata: Mapping, text: str) -> None:
    """Write ``README.md`` with its front matter, as Hugging Face reads it."""
    write_text(folder / "README.md", f"---\n{as_yaml(metadata)}---\n\n{text.strip()}\n")


def write_zenodo(folder: Path, kind: str, title: str, sentences: Sequence[str], terms: Terms) -> None:
    """Write ``.zenodo.json``, the metadata of a deposit on Zenodo (https://developers.zenodo.org). ``kind``: of upload;
    ``sentences`` describe it."""
    derived = [{"identifier": doi, "relation": "isDerivedFrom"} for doi in terms.dois]
    content = {
        "upload_type": kind, "title": title, "access_right": "open", "license": terms.licence, "language": "eng",
        "creators": [{"name": name} for name in terms.creators],
        "description": "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences),
        "keywords": KEYWORDS, "references": list(terms.sources),
    }  # fmt: skip
    write_json(folder / ".zenodo.json", content | ({"related_identifiers": derived} if derived else {}))
