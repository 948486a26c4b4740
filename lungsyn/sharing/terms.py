"""Under which terms something is shared, by whom, and what it was made from: what a study's results cannot say."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from lungsyn.errors import InputError
from lungsyn.sharing.writing import one_line

# Sources that are known by the names of their patients, and how they ask to be cited.
KNOWN = {
    r"LIDC-IDRI-\d{4}": (
        "LIDC-IDRI (CC BY 3.0): Armato SG III, et al. Data From LIDC-IDRI. The Cancer Imaging Archive, 2015. "
        "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX. Its articles: Armato SG III, et al. The Lung Image Database "
        "Consortium (LIDC) and Image Database Resource Initiative (IDRI). Medical Physics 38, 2011. "
        "https://doi.org/10.1118/1.3528204. Clark K, et al. The Cancer Imaging Archive (TCIA). Journal of Digital "
        "Imaging 26, 2013. https://doi.org/10.1007/s10278-013-9622-7"
    )
}
DOI = re.compile(r"10\.\d{4,9}/[^\s<>\"]*\w")
# Hugging Face's own names of licences (hub/repositories-licenses); any other one is "other", with name and link.
HUGGING_FACE = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "unlicense",
}  # fmt: skip


def licence(identifier: str) -> str:
    """An SPDX identifier as the list of SPDX spells it. Raises InputError where it is none.

    >>> licence("cc-by-4.0")
    'CC-BY-4.0'
    """
    try:
        found = canonicalize_license_expression(identifier)
    except InvalidLicenseExpression:
        found = ""
    if not found or " " in found or found.startswith("LicenseRef-"):
        raise InputError(
            f"--license is {identifier!r}, which is no single identifier of https://spdx.org/licenses: name one, such "
            "as CC-BY-4.0, CC0-1.0, CC-BY-NC-SA-4.0 or, for a model, Apache-2.0"
        )
    return found


def link(identifier: str) -> str:
    return f"https://spdx.org/licenses/{identifier}.html"


def for_hugging_face(identifier: str) -> dict[str, str]:
    """The licence in the front matter of a card."""
    if identifier.lower() in HUGGING_FACE:
        return {"license": identifier.lower()}
    return {"license": "other", "license_name": identifier.lower(), "license_link": link(identifier)}


@dataclass(frozen=True)
class Terms:
    """``licence``: an SPDX identifier; ``creators``: as ``Family, Given``; ``sources``: what the study's cases are,
    with their citations; ``notes``: Markdown of whoever shares (ethics approval, consent, funding)."""

    licence: str
    creators: Sequence[str]
    sources: Sequence[str]
    notes: str = ""

    @property
    def dois(self) -> list[str]:
        """Of the sources, the first that each names."""
        return [found[0] for found in map(DOI.search, self.sources) if found]


def terms(
    identifier: str, creators: Sequence[str], sources: Sequence[str], notes: Path | None, cohort: Iterable[Mapping]
) -> Terms:
    """The terms as a user gave them; ``cohort``: rows with the ``patient`` of each case. Raises InputError for what is
    no licence, and where nobody answers for it, or nothing says what the patients' data are."""
    creators, sources = ([one_line(text) for text in given if text.strip()] for given in (creators, sources))
    if not creators:
        raise InputError("nobody is said to answer for it: name who does with --creator 'Family, Given'")
    try:
        text = notes.read_text(encoding="utf-8").strip() if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--notes {notes} cannot be read ({error}): give a text file in UTF-8") from error
    return Terms(licence(identifier), creators, sources_of(cohort, sources), text)


def sources_of(cohort: Iterable[Mapping], given: Sequence[str]) -> list[str]:
    """The citations of a study's sources: those that are known by the names of patients, then the ``given`` ones.

    Raises InputError where the source of a patient is neither."""
    patients = {row["patient"] for row in cohort}
    known = {pattern: {name for name in patients if re.fullmatch(pattern, name)} for pattern in KNOWN}
    if patients - set().union(*known.values()) and not given:
        raise InputError(
            "nothing says of what data the study's patients are, which whoever gets this must know: say it with "
            "--source 'TITLE, CITATION, LICENCE, DOI' (again for each further one)"
        )
    return [citation for pattern, citation in KNOWN.items() if known[pattern]] + [*given]
