"""The viewer's folder: the page, the volumes that it loads one by one, a picture of each, and what stands beside what.

``study.js`` has everything but voxels::

    volumes   {id: name, what, file, picture, masks, nodules (mm of each, by index), spacing_mm, coarser, bytes}
    views     title, and cases: name, why, and what may stand on the left and on the right
    a side    volume, text (what the choice is called), words; of a prediction: mask {file, key};
              at, beside_at: where (mm) to begin in it and in the other, if that is not the volume's first nodule
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lungsyn.evaluation.figures import COLOURS, headline, save
from lungsyn.evaluation.pictures import draw_contour, draw_slice, largest_nodule, widest_slices
from lungsyn.settings.evaluation import Viewing
from lungsyn.settings.study import Study
from lungsyn.viewer import volumes
from lungsyn.volume.files import Case, map_volume, open_case, write_text
from lungsyn.volume.space import PLANES

HERE = Path(__file__).parent
# The files of the page, each with the begin of its sha256: so a change of one is a change of the verb's code.
PAGE = {
    "page/index.html": "dc320b3d9c79",
    "page/viewer.css": "f9245d0bc8cd",
    "page/viewer.js": "4e3eccfb5917",
    "niivue/niivue.umd.js": "47b896b77ec4",
    "niivue/LICENSES.txt": "2316e01b4a70",
    "niivue/README.txt": "91d238d4c9de",
}
PICTURE_DPI = 80


@dataclass(eq=False)
class Shelf:
    """What is written so far below ``out``. ``cases``: folders of real ones by name; ``split``: of each, a
    host's is ``train host``."""

    out: Path
    study: Study
    settings: Viewing
    cases: Mapping[str, Path]
    split: Mapping[str, str]
    volumes: dict[str, dict] = field(default_factory=dict)
    _of_folder: dict[Path, str] = field(default_factory=dict)

    def real(self, name: str) -> str:
        """The id of a real case's volume, written when it is first asked for."""
        return self.put(self.cases[name], f"real, {self.split[name]}")

    def put(self, folder: Path, what: str) -> str:
        """The id of a case's volume; ``what`` it is, in words."""
        if folder not in self._of_folder:
            number = f"{len(self.volumes)}"
            self._of_folder[folder] = number
            self.volumes[number] = self._write(number, open_case(folder), folder.name, what)
        return self._of_folder[folder]

    def _write(self, number: str, case: Case, name: str, what: str) -> dict:
        grid, picture = volumes.grid_of(case), f"pictures/{number}.png"
        masks = volumes.mask_texts(case, grid)
        size = self.script(f"volumes/{number}.js", {"ct": volumes.ct_text(case, grid), **masks})
        _plot(case, f"{name}, {what}", self.study.name, self.settings.window_hu, self.out / picture)
        return {
            "name": name, "what": what, "file": f"volumes/{number}.js", "picture": picture, "masks": list(masks),
            "nodules": volumes.nodule_places(case, grid), "spacing_mm": round(float(grid.spacing_mm.max()), 2),
            "coarser": bool(grid.spacing_mm.max() > 1.001 * case.space.spacing_mm.max()), "bytes": size,
        }  # fmt: skip

    def script(self, file: str, content: Mapping) -> int:
        """Write a script that hands ``content`` to the page. How many bytes it has."""
        text = f"loaded({json.dumps(file)}, {json.dumps(content)})\n"
        write_text(self.out / file, text)
        return len(text)

    def predictions(self, name: str, key: int, files: Mapping[str, Path]) -> str:
        """The masks of all predictions of a case in one script, by key; ``key``: which view's they are."""
        case, number = open_case(self.cases[name]), self.real(name)
        grid, file = volumes.grid_of(case), f"volumes/{number}-{key}.js"
        self.script(file, {of: volumes.prediction_text(map_volume(path).data, case, grid)
                           for of, path in files.items()})  # fmt: skip
        return file

    def close(self, views: Sequence[Mapping]) -> int:
        """Write the page. How many bytes the volumes have."""
        for file in PAGE:
            write_text(self.out / file.removeprefix("page/"), (HERE / file).read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in (self.out / "volumes").glob("*.js"))
        study = {
            "study": self.study.name, "window_hu": self.settings.window_hu, "step_hu": volumes.STEP_HU,
            "megabytes": round(size / 1e6, 1), "volumes": self.volumes, "views": views,
        }  # fmt: skip
        write_text(self.out / "study.js", f"const STUDY = {json.dumps(study, indent=1)};\n")
        return size


def _plot(case: Case, title: str, study_name: str, window_hu, out: Path) -> None:
    """The middle of the largest nodule in three planes, or of a case without one: what is seen where nothing moves."""
    nodule = largest_nodule(case.nodules)
    slices = widest_slices(np.asarray(case.body) != 0 if nodule is None else nodule)

    def draw(figure: Figure) -> None:
        for axis, (plane, across) in zip(figure.subplots(1, 3), PLANES.items(), strict=True):
            draw_slice(axis, case.ct, across, slices[across], case.space.spacing_mm, window_hu)
            draw_contour(axis, np.asarray(case.nodules) != 0, across, slices[across], COLOURS[1], 1.4)
            axis.set_xlabel(plane)
        headline(figure, title, study_name)

    save(9, 3.6, PICTURE_DPI, out, draw)


def side(volume: str, text: str, words: Iterable[str] = (), **further) -> dict:
    """One choice of what stands on a side of the page."""
    return {"volume": volume, "text": text, "words": [word for word in words if word]} | further
