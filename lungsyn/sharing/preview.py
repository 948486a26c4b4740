"""A picture of some synthetic cases, and of nothing real: the first that a stranger sees of a set."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lungsyn.evaluation.figures import COLOURS, headline, save
from lungsyn.evaluation.pictures import choose, contact_row
from lungsyn.settings.evaluation import Figures
from lungsyn.volume.files import Case

SHOWN = 6
IN_A_ROW = 2


def plot_preview(cases: Sequence[tuple[str, Case]], study_name: str, seed: int, settings: Figures, out: Path) -> None:
    """Cases drawn at random: axial and coronal slice through the largest nodule, a close-up, the mask's outline."""
    opened = dict(cases)
    chosen = choose(list(opened), SHOWN, seed)
    n_rows = -(-len(chosen) // IN_A_ROW)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(n_rows, 3 * IN_A_ROW, squeeze=False).reshape(-1, 3)
        for row in axes[len(chosen) :].ravel():
            row.set_axis_off()
        for row, name in zip(axes, chosen, strict=False):
            contact_row(row, opened[name], settings.window_hu, COLOURS[4])
            row[0].set_title(name, fontsize=8.5, loc="left", pad=3)
        headline(figure, f"Synthetic: {len(chosen)} of {len(opened)} cases, drawn at random", study_name)

    save(11, 1.95 * n_rows + 0.7, settings.dpi, out, draw)
