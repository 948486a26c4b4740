"""Names from outside (files, cases, patients): which are one name in two spellings, and how one becomes a folder.

The file system's names are bytes; Python marks those that are no UTF-8 by surrogates. Here they are read as Latin-1.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

APOSTROPHES, MINUS = "'\u2018\u2019\u02bc`\u00b4", "\u2212"
LONGEST_FOLDER = 150  # bytes; a file's name may have 255, and the workflow puts some words around a case's


def readable(name: str) -> str:
    """The name as text: composed (NFC; macOS writes letter and accent apart), odd bytes read as Latin-1."""
    latin = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), name)
    return unicodedata.normalize("NFC", latin)


def spelling_key(name: str) -> str:
    """Equal for names that differ in spelling only: form and case of letters, blanks, punctuation, zeros in front.

    ``PAT-01`` is ``pat 1`` and ``PAT01``; ``7.0``, as a spreadsheet writes 7, is ``007``; ``Muller`` is not ``Müller``.
    Empty for a name of punctuation alone.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", readable(name)).casefold())
    text = "".join(_plain(letter) for letter in text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)  # any other is a decimal point
    text = re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", " ".join(text.split()))
    return re.sub(r"(\d+)\.0+", r"\1", text) if re.fullmatch(r"\d+\.0+", text) else text


def _plain(letter: str) -> str:
    """A blank for blanks and punctuation of all kinds, nothing for apostrophes and what is not seen, any script's digit
    as 0 to 9."""
    kind = unicodedata.category(letter)
    if kind == "Cf" or letter in APOSTROPHES or "\ufe00" <= letter <= "\ufe0f":
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(letter))
    return " " if letter == MINUS or (kind[0] in "ZP" and letter != ".") or kind == "Cc" else letter


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two different names that are spelled alike (``spelling_key``), the first such pair, or None."""
    first: dict[str, str] = {}
    for name in sorted(set(names)):
        other = first.setdefault(spelling_key(name), name)
        if other != name:
            return other, name
    return None


def as_folder(name: str) -> str:
    """The case's name, which becomes a folder, from that of its file: of [A-Za-z0-9_+-] only, at most 150 letters.

    Where letters had to be replaced, or the name cut, eight digits of its digest keep it apart from others.
    """
    name = readable(name)
    folder = re.sub(r"[^\w+-]", "-", name, flags=re.ASCII)
    strange = any(letter.isalnum() and not letter.isascii() for letter in name)
    if strange or len(folder) > LONGEST_FOLDER:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{folder[: LONGEST_FOLDER - 9]}-{digest[:8]}"
    return folder
