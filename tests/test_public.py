"""What a notebook imports: it loads nothing heavy, each name is documented by an example, and each example is run."""

import ast
import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import lungsyn
from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.volume.files import write_case
from tests.conftest import ROOT, make_case, network_of

EXAMPLES = [path for path in sorted((ROOT / "lungsyn").rglob("*.py")) if "    >>> " in path.read_text()]
EXAMPLES.append(ROOT / "lungsyn/__init__.py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture
def example_files(tmp_path, monkeypatch, generator_settings) -> Path:
    """The files that examples name: a case, a generator, a label map whose axes run to the left, back and top."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # stays 1: see tests/conftest.py
    case = make_case((16, 16, 16), name="one")  # as large as a patch
    write_case(tmp_path / "cases/one", case)
    weights = network_of(generator_settings).state_dict()
    about = {"generator": generator_settings.model_dump(mode="json"), "precision": "float32"}
    checkpoint.save(Path("model.safetensors"), weights, about)
    values = np.where(case.nodules > 0, case.nodules + 199, np.array([0, 11, 10])[case.lungs])
    values = np.where((values == 0) & (case.body > 0), 1, values).astype(np.int16)[::-1, ::-1]
    affine = case.affine @ np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = case.affine[:3, :3] @ [values.shape[0] - 1, values.shape[1] - 1, 0] + case.affine[:3, 3]
    nib.save(nib.Nifti1Image(values, affine), "labels.nii.gz")
    return tmp_path


@pytest.mark.parametrize("path", EXAMPLES, ids=module_of)
def test_every_example_is_true(path, example_files):
    names = {"lungsyn": lungsyn, "np": np}
    found = doctest.testmod(import_module(module_of(path)), extraglobs=names)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", lungsyn.__all__)
def test_every_public_name_is_there_and_has_an_example(name):
    assert ">>> " in getattr(lungsyn, name).__doc__
    assert name in dir(lungsyn)


def test_types_are_told_of_the_names_that_are_there():
    """A type checker reads the imports that Python does not run: they name the same things in the same places."""
    tree = ast.parse((ROOT / "lungsyn/__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module.removeprefix("lungsyn.") for node in checked.body for alias in node.names}
    assert told == lungsyn.PLACES
    assert sorted(lungsyn.__all__) == sorted(lungsyn.PLACES)
    assert (ROOT / "lungsyn/py.typed").is_file()


def test_a_name_that_is_not_there_is_told_as_python_does():
    with pytest.raises(AttributeError, match="module 'lungsyn' has no attribute 'load_generators'"):
        lungsyn.load_generators  # noqa: B018


def loaded_by(code: str) -> set[str]:
    """The large libraries that a fresh Python has loaded after ``code``."""
    asked = f"{code}; import sys; print(*({{'torch', 'monai', 'scipy', 'numpy', 'pydantic'}} & sys.modules.keys()))"
    return set(subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout.split())


def test_what_is_not_used_is_not_loaded():
    assert loaded_by("import lungsyn") == set()
    assert loaded_by("import lungsyn; lungsyn.LabelMap") == {"numpy"}
    without_torch = [name for name in lungsyn.__all__ if name != "load_generator"]
    assert not loaded_by(f"import lungsyn; from lungsyn import {', '.join(without_torch)}") & {"torch", "monai"}


def test_a_label_map_of_another_program_is_a_case_s(example_files):
    """Turned to RAS+, with the numbers that lungs and nodules have here."""
    case = lungsyn.open_case("cases/one")
    names = {"lungs": {11: 1, 10: 2, 200: 1, 201: 2}, "nodules": {200: 1, 201: 2}, "body": [1, 10, 11, 200, 201]}
    labels, affine = lungsyn.read_labels("labels.nii.gz", names)
    assert np.allclose(affine, case.affine)
    for name in labels.names:
        assert labels[name].dtype == np.uint8
        assert np.array_equal(labels[name], np.where(case.body, case.labels[name], 0))


def test_a_small_nodule_keeps_its_volume_on_a_coarser_grid(example_files):
    names = {"nodules": {200: 1, 201: 2}, "airway": 77, "body": 1}
    fine, _ = lungsyn.read_labels("labels.nii.gz", names)
    coarse, affine = lungsyn.read_labels("labels.nii.gz", names, spacing_mm=4.0)
    assert np.diag(affine)[:3] == pytest.approx(4.0)
    for number in (1, 2):
        assert (coarse["nodules"] == number).sum() == round((fine["nodules"] == number).sum() / 8)
    assert not coarse["airway"].any()


def test_an_image_is_no_label_map(tmp_path):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), tmp_path / "ct.nii")
    with pytest.raises(InputError, match=r"ct\.nii: not a label map: give one with three axes, and a whole number"):
        lungsyn.read_labels(tmp_path / "ct.nii", {"body": 1})


def test_a_model_that_is_no_generator_is_told(tmp_path):
    checkpoint.save(tmp_path / "model.safetensors", {}, {"segmenter": {}})
    with pytest.raises(InputError, match=r"model\.safetensors: a model of lungsyn, but not a generator"):
        lungsyn.load_generator(tmp_path / "model.safetensors")


def test_masks_of_numbers_agree_as_masks_do():
    """Two nodules are told apart by numbers of any kind, which share bits or not."""
    assert lungsyn.dice(np.array([1, 1, 0]), np.array([2, 2, 0])) == 1.0
    with pytest.raises(ValueError, match=r"masks of shapes \(3,\) and \(1,\): give both on one grid"):
        lungsyn.dice(np.ones(3), np.ones(1))
