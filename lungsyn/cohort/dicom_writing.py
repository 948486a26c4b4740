"""A CT series written as DICOM: one file per slice, as scanners write them. ``cohort.dicom`` reads them.

Axes: ``[x y z]`` is DICOM's [column, row, slice], z ascending. LPS (DICOM) to RAS+ (here) flips the first two mm axes.
"""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lungsyn.errors import InputError
from lungsyn.volume.files import whole_file
from lungsyn.volume.space import Volume


def slice_names(count: int) -> list[str]:
    """File names of a series' slices, the lowest slice first: ``001.dcm`` is the highest. Sorting keeps their order."""
    digits = max(3, len(str(count)))
    return [f"{number:0{digits}d}.dcm" for number in range(count, 0, -1)]


def write_ct(folder: Path, ct: Volume, header: pydicom.Dataset) -> list[Path]:
    """Write int16 HU as CT Image Storage, uncompressed, and return the files: one per slice, by ``slice_names``.

    The axes of ``ct`` run to the patient's left, to the back and up, at least nearly. ``header`` says whose image it is
    and where it comes from (series and study UID, patient, equipment); the rest is filled in here. Raises InputError if
    the axes are not at right angles, which a series cannot say.
    """
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ct.affine
    directions = to_lps[:3, :3] / ct.space.spacing_mm
    if not np.allclose(np.cross(*directions.T[:2]), directions[:, 2], atol=1e-4):
        raise InputError("the volume's axes are not at right angles, as a DICOM series' are: resample it")
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CTImageStorage
    first_hu = min(-1024, int(ct.data.min()))  # the value of a stored zero
    header.Modality, header.PatientPosition = "CT", "HFS"
    header.ImageOrientationPatient = [round(float(part), 6) for part in directions[:, :2].T.ravel()]
    header.PixelSpacing = [round(float(ct.space.spacing_mm[i]), 6) for i in (1, 0)]
    header.Columns, header.Rows = ct.data.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, first_hu, "HU"
    files = [folder / name for name in slice_names(ct.data.shape[2])]
    for k, file in enumerate(files):
        number = len(files) - k
        header.SOPInstanceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID, str(number)])
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.InstanceNumber = number
        header.ImagePositionPatient = [round(float(mm), 6) for mm in (to_lps @ (0, 0, k, 1))[:3]]
        header.SliceLocation = header.ImagePositionPatient[2]
        header.PixelData = (ct.data[:, :, k].T.astype(np.int32) - first_hu).astype("<u2").tobytes()
        with whole_file(file) as temporary:
            header.save_as(temporary, enforce_file_format=True)
    return files
