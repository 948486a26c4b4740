"""The pictures of a study as tables: which file shows what, of which segmenter or set, at which training-set size.

Whoever draws a picture writes its row, so that the report, or anybody, can caption it without parsing a file's name.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lungsyn.volume.tables import read_table

COLUMNS = ["file", "kind", "segmenter", "set", "size", "caption"]  # the caption is also the text for the blind
MAIN = "dice_difference"
# The kinds, in the order of the report; {}: the segmenter or the set, and the training-set size if there is one.
CAPTIONS = {
    MAIN: "Difference of each case's Dice to the benchmark arm, segmenter {}. Claims rest on the test.",
    "ladder": "Mean difference of every arm to the benchmark arm on the test cases, by training-set size, segmenter "
    "{}. What lies within the grey band is no more than other random seeds do.",
    "learning": "Mean Dice of the test cases over the number of training patients, segmenter {}. Arms are to be "
    "compared at the same size, by the differences on the right.",
    "froc": "FROC of every arm on the test nodules, segmenter {}: a component of at least 10 % probability is a "
    "candidate, its mean probability its confidence; the points are LUNA16's seven rates.",
    "cases": "The test cases of best, median and worst change with every replicate's contour, segmenter {}. "
    "The rule chooses them, not a person.",
    "turned": "Test nodules that most replicates of one arm found and most of the other missed, segmenter {}; those on "
    "which most replicates differ first, then the larger ones.",
    "sets": "Every synthetic set: how well a segmenter learned from it alone, over how far it is from real CT. "
    "Shape: the audit's verdict.",
    "contact_sheet": "Random synthetic cases of set {} with their masks' outlines, beside random real ones.",
    "quality": "Measures of set {}: real train cases, accepted and rejected volumes; grey: the range.",
    "fidelity": "Set {}: how far its cases are from the train cases, beside how far held-out real cases are: the "
    "floor.",
    "nearest": "Set {}: the synthetic cases closest to a train case (r: correlation of what the masks do not explain), "
    "and the held-out cases closest to one, for which it is chance.",
    "outlines": "Set {}: lungs and body of the synthetic cases whose nearest train patient stands out most, over that "
    "patient's, and the same for held-out cases, for which it is chance.",
    "training": "Loss curves of everything that was trained.",
}


def entry(
    kind: str, segmenter: str = "", set_name: str = "", size: int | None = None, fold: int | None = None
) -> dict:  # fmt: skip
    """The row of a picture, and its ``file`` in the folder of its table."""
    name = segmenter or set_name
    words = name if size is None else f"{name}, {size} % of the train patients"
    if fold is not None:
        words += f", fold {fold}"
    parts = [str(part) for part in (kind, name, size, fold and f"fold{fold}") if part not in ("", None)]
    return {
        "file": f"{'-'.join(parts)}.png", "kind": kind, "segmenter": segmenter, "set": set_name, "size": size,
        "caption": CAPTIONS[kind].format(words),
    }  # fmt: skip


def read_pictures(tables: Iterable[Path], benchmark_segmenter: str) -> list[dict]:
    """Rows of all the tables with the full path as ``file``, in the order in which they are shown.

    That is kind by kind, the benchmark's segmenter first, the largest training set first. The first is the main one.
    """
    rows = [row | {"file": table.parent / row["file"]} for table in tables for row in read_table(table, COLUMNS)]
    names = list(dict.fromkeys(row["segmenter"] or row["set"] for row in rows))
    kinds = list(CAPTIONS)

    def place(row: Mapping) -> Sequence:
        others = row["segmenter"] not in ("", benchmark_segmenter)
        return kinds.index(row["kind"]), others, names.index(row["segmenter"] or row["set"]), -int(row["size"] or 0)

    return sorted(rows, key=place)
