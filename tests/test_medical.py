"""NIfTI and DICOM: slices as nibabel and pydicom write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unetzoo import extras, images
from unetzoo.data import Labels, SegmentationDataset, labels_of, list_samples, masks
from unetzoo.data.record import fingerprints
from unetzoo.errors import InputError

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def write_nifti(path: Path, array: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Path:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(array, np.diag([0.7, 0.9, 2.5, 1]))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    return path


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write a secondary capture: (H, W), (H, W, 3) of RGB, or (frames, H, W)."""
    pydicom = pytest.importorskip("pydicom")
    uid = pydicom.uid
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = tags.pop("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7")
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=[path.name])
    colours = pixels.ndim == 3 and pixels.shape[2] == 3 and "NumberOfFrames" not in tags
    found.Rows, found.Columns = pixels.shape[:2] if pixels.ndim == 2 or colours else pixels.shape[1:]
    found.SamplesPerPixel, found.PhotometricInterpretation = (3, "RGB") if colours else (1, "MONOCHROME2")
    if colours:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = tags.pop("BitsAllocated", 8 * pixels.itemsize)
    found.HighBit, found.PixelRepresentation = found.BitsAllocated - 1, int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes() if found.BitsAllocated > 1 else pydicom.pixels.pack_bits(pixels.ravel())
    for name, value in tags.items():
        setattr(found, name, value)
    found.save_as(path, enforce_file_format=True)
    return path


KINDS = {"u1": torch.uint8, "u2": torch.uint16, "i2": torch.int16, "i4": torch.int32}
KINDS |= {"f4": torch.float32, "f8": torch.float32}


@pytest.mark.parametrize("kind", ["u1", "i2", "<f4", ">i2", ">f4", "f8", "u2", "i4"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_slices_of_nifti(tmp_path: Path, name: str, kind: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (11, 7, 5)).astype(kind)
    path = write_nifti(tmp_path / name, array)
    assert images.image_size(path) == (7, 11)
    assert images.planes_of(path).axes == (("Z", 5),)
    for k in range(5):
        found = images.read_image(path, k)
        assert found.dtype == KINDS[kind.strip("<>")]
        assert np.array_equal(found[0], array[:, :, k].T)
    assert np.array_equal(images.read_image(path, "max")[0], array.max(2).T)
    with pytest.raises(InputError, match=r"holds 5 depths \(Z\)"):
        images.read_image(path)


def test_nifti_of_other_shapes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (6, 4, 3, 2)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii", array)
    assert images.planes_of(path).axes == (("T", 2), ("Z", 3))
    assert np.array_equal(images.read_image(path, 4)[0], array[:, :, 1, 1].T)
    path = write_nifti(tmp_path / "b.nii", array[..., :1, 0])
    assert np.array_equal(images.read_image(path)[0], array[:, :, 0, 0].T)
    path = write_nifti(tmp_path / "c.nii", array[:, :, 0, 0], 0.5, -3)
    assert np.allclose(images.read_image(path)[0], array[:, :, 0, 0].T * 0.5 - 3)
    colours = np.zeros((6, 4, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"], colours["B"] = array[..., :1, 0], array[..., 1:2, 0]
    found = images.read_image(write_nifti(tmp_path / "d.nii", colours))
    assert np.array_equal(found, np.stack([colours[name][..., 0].T for name in "RGB"]))
    for wrong, said in ((np.zeros((2, 2, 2, 2, 2), np.int16), "5 axes"), (np.zeros((3, 3), np.complex64), "complex64")):
        with pytest.raises(InputError, match=said):
            images.read_image(write_nifti(tmp_path / "e.nii", wrong))


def test_volumes_and_their_masks(tmp_path: Path) -> None:
    """Slice by slice, with the labels of the same slice."""
    chance = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    labels = chance.integers(0, 3, (9, 8, 4)).astype(np.int16)
    write_nifti(tmp_path / "images" / "a.nii.gz", chance.normal(0, 300, (9, 8, 4)).astype(np.float32))
    write_nifti(tmp_path / "masks" / "a.nii.gz", labels)
    meaning = Labels(task="multiclass", num_classes=3, planes="split")
    listing = list_samples(tmp_path, meaning)
    assert not listing.problems
    (samples,) = listing.samples.values()
    assert [sample.planes for sample in samples] == [0, 1, 2, 3]
    for sample in samples:
        assert np.array_equal(masks.read_target(sample, meaning, (8, 9)), labels[:, :, sample.planes].T)


def test_nnunet_of_volumes(tmp_path: Path) -> None:
    """As nnU-Net's own data sets are: volumes, of which each slice is an image here."""
    chance, truth = np.random.default_rng(0), {}
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for name in ("la_003", "la_004"):
        truth[name] = chance.integers(0, 2, (9, 8, 3)).astype(np.uint8)
        write_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", chance.random((9, 8, 3)).astype(np.float32))
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", truth[name])
    told = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "heart": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    labels = labels_of(tmp_path, planes="split")
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    assert [sample.name for sample in listing.samples[""]] == [f"{name}[{k}]" for name in truth for k in range(3)]
    for sample in listing.samples[""]:
        expected = truth[sample.stack][:, :, sample.planes].T
        assert np.array_equal(masks.read_target(sample, labels, (8, 9)), expected)


def test_nnunet_of_volumes_of_several_channels(tmp_path: Path) -> None:
    """As BraTS has them: a volume for each sequence of MRI."""
    chance = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    values = chance.normal(0, 300, (2, 9, 8, 3)).astype(np.float32)
    for channel in range(2):
        write_nifti(tmp_path / "imagesTr" / f"a_{channel:04}.nii.gz", values[channel])
    write_nifti(tmp_path / "labelsTr" / "a.nii.gz", chance.integers(0, 2, (9, 8, 3)).astype(np.uint8))
    told = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "tumour": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    labels = labels_of(tmp_path, planes="split")
    listing = list_samples(tmp_path, labels)
    assert not listing.problems
    dataset = SegmentationDataset(listing.samples[""], labels, in_channels=2)
    for sample, item in zip(dataset.samples, dataset, strict=False):
        assert np.array_equal(item["image"], values[..., sample.planes].transpose(0, 2, 1))
    prints = fingerprints(dataset.samples)
    assert [one.partition("[")[2] for one in prints] == ["0]", "1]", "2]"]


def test_slices_of_dicom(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    stored = chance.integers(0, 4000, (7, 10)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)
    assert images.image_size(path) == (7, 10)
    assert np.array_equal(images.read_image(path)[0], stored.astype(np.float32) - 1024)
    path = write_dicom(tmp_path / "b.dcm", stored.astype(np.int16))
    assert images.read_image(path).dtype == torch.int16
    assert np.array_equal(images.read_image(path)[0], stored)
    colours = chance.integers(0, 255, (7, 10, 3)).astype(np.uint8)
    assert np.array_equal(images.read_image(write_dicom(tmp_path / "c.dcm", colours)), colours.transpose(2, 0, 1))
    frames = chance.integers(0, 255, (4, 7, 10)).astype(np.uint8)
    path = write_dicom(tmp_path / "d.dcm", frames, NumberOfFrames=4)
    assert images.planes_of(path).axes == (("frames", 4),)
    assert all(np.array_equal(images.read_image(path, k)[0], frames[k]) for k in range(4))


def test_segmentations_of_dicom(tmp_path: Path) -> None:
    """Two segments in three slices: a band each, and nothing where a segment has no frame."""
    pydicom = pytest.importorskip("pydicom")
    drawn = np.random.default_rng(0).integers(0, 2, (4, 6, 8)).astype(np.uint8)
    places = ((1, -20.0), (2, -20.0), (2, 5.0), (1, -7.5))
    groups = []
    for number, z in places:
        segment, position, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        segment.ReferencedSegmentNumber, position.ImagePositionPatient = number, [3.0, 4.0, z]
        group.SegmentIdentificationSequence, group.PlanePositionSequence = [segment], [position]
        groups.append(group)
    orientation, shared = pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [orientation]
    segments = [pydicom.Dataset(), pydicom.Dataset()]
    for number, segment in enumerate(segments, 1):
        segment.SegmentNumber = number
    tags = {
        "SOPClassUID": SEGMENTATION,
        "SegmentationType": "BINARY",
        "SegmentSequence": segments,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": groups,
        "NumberOfFrames": 4,
    }
    path = write_dicom(tmp_path / "a.dcm", drawn, BitsAllocated=1, **tags)
    assert images.planes_of(path).axes == (("Z", 3),)
    empty = np.zeros((6, 8))
    for plane, (first, second) in enumerate([(drawn[0], drawn[1]), (drawn[3], empty), (empty, drawn[2])]):
        assert np.array_equal(images.read_values(path, plane), np.stack([first, second]))
    path = write_dicom(tmp_path / "b.dcm", drawn, **(tags | {"SegmentationType": "FRACTIONAL"}))
    with pytest.raises(InputError, match="FRACTIONAL: only BINARY is read"):
        images.read_values(path, 0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.dcm"])
def test_damaged_volumes_are_one_error(tmp_path: Path, name: str) -> None:
    path, chance = tmp_path / name, np.random.default_rng(0)
    array = chance.integers(0, 200, (12, 10, 3)).astype(np.uint8)
    if name == "a.dcm":
        write_dicom(path, array.transpose(2, 0, 1), NumberOfFrames=3)
    else:
        write_nifti(path, array)
    whole = path.read_bytes()
    for end in (0, 10, 200, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=name):
            images.read_image(path, 2)
    if name == "a.nii":  # a header of 32,767³ voxels
        path.write_bytes(whole[:40] + np.array([3, 32767, 32767, 32767], "<i2").tobytes() + whole[48:])
        with pytest.raises(InputError, match="too much to read"):
            images.image_size(path)


def test_extras_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.EXTRAS["nibabel"] == extras.EXTRAS["pydicom"] == "medical"

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    for name in ("a.nii", "a.dcm"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=r"unetzoo\[medical\]"):
            images.read_image(tmp_path / name)
