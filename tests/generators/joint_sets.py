"""From a trained joint generator to a set that was checked and audited, and to a segmenter that learned from it."""

import dataclasses

import numpy as np

from lungsyn import checkpoint
from lungsyn.audit.outlines import probe_outlines
from lungsyn.audit.probes import probe
from lungsyn.audit.verdict import neighbour_checks
from lungsyn.masks import blank
from lungsyn.models import load_generator
from lungsyn.quality.measures import measure
from lungsyn.quality.ranges import reference
from lungsyn.registry import family
from lungsyn.seams import Attackable, Run
from lungsyn.segmenters.core.patches import TrainingPatches
from lungsyn.segmenters.core.settings import PatchTraining
from lungsyn.sets import checked_attempts
from lungsyn.settings.arms import Use
from lungsyn.settings.audit import Thresholds
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case, whole_case, write_case

AUDIT = Thresholds(patch_mm=24.0)


def ends_in_a_checked_set(folders, settings, compute, root, attackable: bool) -> None:
    """The first five of the ``folders`` are train cases, the others held out."""
    train, unseen = folders[:5], folders[5:]
    own = family("generators", settings.kind)
    trained = own.fit(train, settings, Run(7, compute, root / "checkpoints"))
    assert trained.facts["real"]["cut_out"] and trained.facts["real"]["smallest_mm3"] > 0
    about = {"generator": settings.model_dump(mode="json"), "cases": [f.name for f in train], "seed": 7} | trained.facts
    checkpoint.save(root / "model.safetensors", trained.tensors, about)
    generator = load_generator(root / "model.safetensors", compute, Synthesis(steps=3, mode="fused"))
    assert generator.needs == frozenset() and own.makes_masks and own.attackable == attackable
    if attackable:
        assert isinstance(generator, Attackable) and np.isfinite(generator.log_loss(train[0], seed=1))

    source = family("masks", "blank")
    rows = [{key: str(value) for key, value in row.items()} for row in source.rows(train, 2, 3, blank.Settings())]
    ranges = reference({folder.name: measure(whole_case(folder), None) for folder in train}, 0.05)
    made = []
    for row in rows:
        scene = source.scene(row, open_case)
        one, other = (generator.sample(scene, int(row["seed"])) for _ in range(2))
        assert (one.hu == other.hu).all() and (one.labels["nodules"] == other.labels["nodules"]).all()
        attempts = list(checked_attempts(generator, scene, row, 3, ranges, tries=1))
        assert len(attempts) == 2 or not attempts[-1].faults
        case = attempts[-1].case
        assert case.ct.shape == (15, 15, 15) and (np.asarray(case.body) == 1).all()
        case.about.update(case=f"made-{row['volume']}", made={"row": row})
        made.append(root / case.about["case"])
        write_case(made[-1], case)
    assert open_case(made[0]).digest != open_case(made[1]).digest

    groups = {"synthetic": made, "held-out": unseen, "train": train}
    outlines = probe_outlines(made, train, unseen, 0)
    rows = [row for row in outlines if row["group"] == "synthetic"]
    assert [row["patient"] for row in rows] == [folder.name for folder in made]  # they are nobody's
    for kind in ("nodule", "volume"):
        assert neighbour_checks(kind, probe(kind, groups, AUDIT, 0, "cpu"), AUDIT, 0)[1]

    arm = TrainingPatches([], made, Use(), PatchTraining(patch_voxels=16), 0)
    image, nodule = arm[0]
    assert image.shape == nodule.shape == (1, 16, 16, 16) and dataclasses.is_dataclass(generator)
