"""Test cases and nodules that the rules of a figure choose, with what two arms predicted there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lungsyn.evaluation import data
from lungsyn.evaluation.groups import TEST, case_means, chosen_changes, tested
from lungsyn.evaluation.pictures import MOST_TURNED, Drawn, plot_cases, plot_turned
from lungsyn.evaluation.scores import NODULE_COLUMNS, read_arms
from lungsyn.evaluation.strata import turned
from lungsyn.folds import folds_in, in_fold
from lungsyn.settings.evaluation import Drawing
from lungsyn.volume.files import map_volume, open_case
from lungsyn.volume.predictions import of_case, read_predictions
from lungsyn.volume.tables import read_table


class Drawable:
    """The cases, predictions and nodules of a study, found by what their tables say. With folds, a case's predictions
    are of the fold that tests it."""

    def __init__(
        self, study_name: str, settings: Drawing, cases: Sequence[Path], predictions: Sequence[Path],
        nodules: Sequence[Path], cohort: Path,
    ):  # fmt: skip
        self.study_name, self.settings = study_name, settings
        self.folders = {folder.name: folder for folder in cases}
        self.predictions = [row for folder in predictions for row in read_predictions(folder)]
        self.nodules = read_arms(nodules, NODULE_COLUMNS)
        rows = read_table(cohort)
        self.tested_in = {
            row["case"]: fold for fold in folds_in(rows) for row in in_fold(rows, fold) if row["split"] == TEST
        }

    def case(self, segmenter: str, size: int, name: str, words: str) -> Drawn:
        """A case with the predictions of both arms (of ``figures.case_arms``) as memory maps."""
        of_arm = {
            arm: [
                row for row in self.predictions
                if (row["segmenter"], row["arm"], row["size"]) == (segmenter, arm, size)
                and row.get("fold") == self.tested_in[name]
            ]
            for arm in self.settings.case_arms
        }  # fmt: skip
        predictions = {arm: [map_volume(path).data for path in of_case(rows, name).values()]
                       for arm, rows in of_arm.items()}  # fmt: skip
        return Drawn(open_case(self.folders[name]), predictions, words)

    def plot_cases(self, segmenter: str, size: int, scores: Mapping, out: Path) -> None:
        """The test cases of best, median and worst change with every replicate's contour for two arms."""
        first, second = self.settings.case_arms
        of_test = tested(scores)
        dice = {arm: case_means(of_test[arm], "dice") for arm in (first, second)}
        chosen = chosen_changes(scores, second, first)
        drawn = [
            self.case(segmenter, size, name, f"{rule} {dice[second][name] - dice[first][name]:+.2f}\n{name}")
            for name, rule in chosen.items()
        ]
        values = [{arm: means[name] for arm, means in dice.items()} for name in chosen]
        plot_cases(drawn, values, self.study_name, self.settings, out)
        data.write_data(out, data.drawn_cases(scores, (first, second)), data.CASE)

    def plot_turned(self, segmenter: str, size: int, out: Path) -> None:
        """The test nodules that most replicates of one arm found and most of the other missed."""
        arms = tested(self.nodules[segmenter, size])
        found = turned(*(arms[arm] for arm in self.settings.case_arms))
        drawn = [
            [
                (self.case(segmenter, size, row["case"], f"{row['diameter_mm']:.1f} mm\n{row['case']}"), row["nodule"])
                for row in rows[:MOST_TURNED]
            ]
            for rows in found
        ]
        plot_turned(*drawn, (len(found[0]), len(found[1])), self.study_name, self.settings, out)
        data.write_data(out, data.turned_nodules(found, self.settings.case_arms), data.NODULE)
