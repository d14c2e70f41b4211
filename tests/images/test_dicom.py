"""DICOM files as a viewer shows them, against pydicom's own files and computed values."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.codestream import encoded_size
from featureloop.images.dicom import count_frames, dicom_frames, looks_like_dicom
from featureloop.images.labelled import open_labelled
from featureloop.images.source import open_source
from featureloop.model.backbones import Backbone, RunEarly
from featureloop.model.early_cache import fill_cache
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import EXTRACTOR
from featureloop.model.runtime import Runtime, open_session
from featureloop.model.tuning import Squares
from featureloop.testing import tiny_package

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def frames_of(path: Path) -> list[Frame | Skipped]:
    return list(dicom_frames(path, name=path.name))


def one(path: Path) -> np.ndarray:
    (frame,) = frames_of(path)
    return frame.pixels


def write(path: Path, pixels: np.ndarray, *, syntax: str = uid.ExplicitVRLittleEndian, **keywords) -> Path:
    """A minimal image object around the pixels, uint8 or 16-bit (H, W) or (F, H, W)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.Modality = "OT"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = pixels.shape[0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    ds.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_expb.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_every_lossless_transfer_syntax_shows_the_same_image(name):
    assert np.array_equal(one(SHIPPED / name), one(SHIPPED / "MR_small.dcm"))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_extended_is_decoded_and_resembles_its_jpeg_2000_twin(name):
    pixels, twin = one(SHIPPED / name), one(SHIPPED / "JPEG2000.dcm")
    assert pixels.shape == twin.shape == (1024, 256, 3)
    assert np.corrcoef(pixels[:, :, 0].ravel(), twin[:, :, 0].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("name", ["SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_colour_of_any_depth_shows_the_colour_bars(name):
    pixels = one(SHIPPED / name)
    assert pixels[5, 5].tolist() == pytest.approx([255, 0, 0], abs=6)
    assert pixels[25, 50].tolist() == pytest.approx([0, 255, 0], abs=6)


def test_palette_is_applied():
    pixels = one(SHIPPED / "examples_palette.dcm")
    assert pixels.shape == (350, 800, 3)
    assert pixels.max() > 200


def test_frames_are_numbered_and_carry_the_patient_as_group():
    frames = frames_of(SHIPPED / "examples_ybr_color.dcm")
    assert [f.index for f in frames] == list(range(30)) == list(range(count_frames(SHIPPED / "examples_ybr_color.dcm")))
    assert {f.group for f in frames} == {"204"}
    assert next(dicom_frames(SHIPPED / "MR_small.dcm", name="a", group="mine")).group == "mine"


def test_frames_come_lazily_and_damage_comes_after_the_frames_before_it(tmp_path):
    ds = pydicom.dcmread(SHIPPED / "SC_rgb_rle_2frame.dcm")
    first, _second = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=2)
    ds.PixelData = encapsulate([first, b"\x01\x02" * 40])
    ds.save_as(tmp_path / "half.dcm")
    frames = dicom_frames(tmp_path / "half.dcm", name="half")
    assert next(frames).index == 0
    with pytest.raises(InputError):
        next(frames)


def test_window_is_the_standards_linear_function(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, BitsStored=12, HighBit=11, WindowCenter="1000", WindowWidth="800")
    x = RAMP.astype(float)
    expected = np.clip(((x - 999.5) / 799 + 0.5), 0, 1) * 255
    assert np.abs(one(path)[:, :, 0] - expected).max() <= 0.51


def test_sigmoid_and_linear_exact_windows_differ_as_the_standard_says(tmp_path):
    settings_ = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2048", "WindowWidth": "1000"}
    x = RAMP.astype(float)
    sigmoid = one(write(tmp_path / "s.dcm", RAMP, VOILUTFunction="SIGMOID", **settings_))[:, :, 0]
    exact = one(write(tmp_path / "e.dcm", RAMP, VOILUTFunction="LINEAR_EXACT", **settings_))[:, :, 0]
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (x - 2048) / 1000))).max() <= 0.51
    assert np.abs(exact - 255 * np.clip((x - 2048) / 1000 + 0.5, 0, 1)).max() <= 0.51


def test_rescale_comes_before_the_window(tmp_path):
    plain = write(tmp_path / "a.dcm", RAMP, WindowCenter="1000", WindowWidth="800")
    scaled = write(
        tmp_path / "b.dcm", RAMP, RescaleSlope="2", RescaleIntercept="-1024", WindowCenter="976", WindowWidth="1599"
    )
    assert np.abs(one(plain).astype(int) - one(scaled)).max() <= 1


def test_first_of_several_windows_is_used_and_a_void_one_is_passed_over(tmp_path):
    several = write(tmp_path / "a.dcm", RAMP, WindowCenter=["1000", "50"], WindowWidth=["800", "10"])
    single = write(tmp_path / "b.dcm", RAMP, WindowCenter="1000", WindowWidth="800")
    void = write(tmp_path / "c.dcm", RAMP, WindowCenter="1000", WindowWidth="0")
    without = write(tmp_path / "d.dcm", RAMP)
    assert np.array_equal(one(several), one(single))
    assert np.array_equal(one(void), one(without))


def test_without_window_deep_values_go_from_min_to_max_without_the_padding(tmp_path):
    values = RAMP.astype(np.int16) + 100
    values[0, :4] = -2000
    pixels = one(write(tmp_path / "a.dcm", values, PixelPaddingValue=-2000))
    assert pixels[0, 4].tolist() == [0, 0, 0]
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[-1, -1].tolist() == [255, 255, 255]


def test_without_window_eight_bits_stay_as_they_are(tmp_path):
    values = np.arange(50, 114, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(one(write(tmp_path / "a.dcm", values))[:, :, 0], values)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "0"), ("2", "-100")])
def test_a_linear_rescale_of_eight_bits_changes_no_brightness(tmp_path, slope, intercept):
    values = np.arange(50, 114, dtype=np.uint8).reshape(8, 8)
    path = write(tmp_path / "a.dcm", values, RescaleSlope=slope, RescaleIntercept=intercept)
    assert np.array_equal(one(path)[:, :, 0], values)


def test_one_bright_pixel_darkens_no_image_without_a_window(tmp_path):
    values = np.random.default_rng(0).integers(100, 3000, (64, 64)).astype(np.uint16)
    before = one(write(tmp_path / "a.dcm", values)).astype(int)
    values[3, 4] = 60_000
    after = one(write(tmp_path / "b.dcm", values))
    assert after[3, 4, 0] == 255
    values[3, 4] = 0
    assert np.abs(after - before)[values > 0].max() <= 1


def test_ct_without_a_window_shows_the_same_hounsfield_units_alike(tmp_path):
    ct = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    bone = RAMP.copy()
    bone[0, 0] = 20_000
    for name, values in (("a.dcm", RAMP), ("b.dcm", bone), ("c.dcm", RAMP[:8])):
        shown = one(write(tmp_path / name, values, **ct))[:, :, 0]
        wanted = np.clip((values.astype(float) - 1024 + 1000) / 2000, 0, 1) * 255
        assert np.abs(shown - wanted).max() <= 0.51
    unitless = one(write(tmp_path / "d.dcm", RAMP, RescaleType="US", **ct))
    assert unitless.max() == 255
    assert not np.array_equal(unitless, one(tmp_path / "a.dcm"))


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_an_inverse_presentation_lut_is_honoured_once(tmp_path, photometric):
    """With MONOCHROME1 (as digital X-ray has it, PS3.3 C.8.11.3) it says the same again."""
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = write(
        tmp_path / "a.dcm", values, PhotometricInterpretation=photometric, PresentationLUTShape="INVERSE", Modality="DX"
    )
    assert np.array_equal(one(path)[:, :, 0], 255 - values)
    identity = write(tmp_path / "b.dcm", values, PresentationLUTShape="IDENTITY")
    assert np.array_equal(one(identity)[:, :, 0], values)


def test_monochrome1_is_inverted(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    pixels = one(write(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(pixels[:, :, 0], 255 - values)


def test_planar_configuration_is_undone(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    planes = write(
        tmp_path / "p.dcm", rgb[:, :, 0], PixelData=rgb.transpose(2, 0, 1).tobytes(), PlanarConfiguration=1, **colour
    )
    assert np.array_equal(one(planes), rgb)


def test_functional_groups_window_each_frame_of_an_enhanced_object(tmp_path):
    def group(center: int) -> Dataset:
        voi, frame = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 400
        frame.FrameVOILUTSequence = [voi]
        return frame

    path = write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=[group(500), group(3000)])
    low_window, high_window = (f.pixels.mean() for f in frames_of(path))
    assert low_window > 200
    assert high_window < 100


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rtplan.dcm", "RT Plan Storage, modality RTPLAN"),
        ("rtstruct.dcm", "RT Structure Set Storage, modality RTSTRUCT"),
        ("test-SR.dcm", "Comprehensive SR Storage, modality SR"),
        ("waveform_ecg.dcm", "12-lead ECG Waveform Storage, modality ECG"),
        ("rtdose.dcm", "RT Dose Storage, modality RTDOSE"),
        ("liver_1frame.dcm", "Segmentation Storage, modality SEG"),
    ],
)
def test_object_without_an_image_names_its_class_and_modality(name, what):
    with pytest.raises(InputError, match=f"holds no image \\({what}\\)"):
        frames_of(SHIPPED / name)


def test_file_without_preamble_and_meta_is_read(tmp_path):
    ds = pydicom.dcmread(SHIPPED / "MR_small.dcm")
    data = (SHIPPED / "MR_small.dcm").read_bytes()
    start = 144 + int(ds.file_meta.FileMetaInformationGroupLength)
    (tmp_path / "bare").write_bytes(data[start:])
    assert looks_like_dicom(data[start : start + 132])
    assert np.array_equal(one(tmp_path / "bare"), one(SHIPPED / "MR_small.dcm"))


def test_dicom_video_is_decoded(tmp_path, make_video):
    clip = make_video(tmp_path / "clip.mp4", frames=12)
    path = write(
        tmp_path / "v.dcm",
        np.zeros((48, 64), np.uint8),
        syntax=uid.MPEG4HP41,
        PixelData=encapsulate([clip.read_bytes()], has_bot=False),
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_PARTIAL_420",
        PlanarConfiguration=0,
        NumberOfFrames=12,
        PatientID="P7",
    )
    frames = frames_of(path)
    assert [(f.index, f.group, f.pixels.shape) for f in frames] == [(i, "P7", (48, 64, 3)) for i in range(12)]
    assert np.abs(np.array([f.pixels.mean() for f in frames]) - (20 + 5 * np.arange(12))).max() < 3


def test_cut_off_pixels_say_how_much_is_there():
    with pytest.raises(InputError, match="8130 of 8192 bytes"):
        frames_of(SHIPPED / "MR_truncated.dcm")


def test_header_that_claims_too_much_is_refused_before_decoding(tmp_path):
    with pytest.raises(InputError, match="megapixels"):
        frames_of(write(tmp_path / "a.dcm", RAMP, Rows=60000, Columns=60000))
    with pytest.raises(InputError, match="frames"):
        frames_of(write(tmp_path / "b.dcm", RAMP, NumberOfFrames=2_000_000_000))


def test_codestream_larger_than_its_header_is_refused_before_decoding(tmp_path):
    ds = pydicom.dcmread(SHIPPED / "JPEG2000.dcm")
    (stream,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    large = bytearray(stream)
    large[8:16] = (60000).to_bytes(4, "big") * 2
    ds.PixelData = encapsulate([bytes(large)])
    ds.save_as(tmp_path / "bomb.dcm")
    assert encoded_size(stream) == (256, 1024)
    with pytest.raises(InputError, match="60000"):
        frames_of(tmp_path / "bomb.dcm")


def test_box_without_a_length_does_not_hang(tmp_path):
    ds = pydicom.dcmread(SHIPPED / "JPEG2000.dcm")
    ds.PixelData = encapsulate([b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60)])
    ds.save_as(tmp_path / "box.dcm")
    with pytest.raises(InputError, match="boxes"):
        frames_of(tmp_path / "box.dcm")


def test_jpeg_that_ends_gdcms_process_is_an_input_error(tmp_path):
    """GDCM's decoder ends the process on some damaged headers; it must not be asked."""
    ds = pydicom.dcmread(SHIPPED / "SC_rgb_jpeg_gdcm.dcm")
    (stream,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    for at in range(2, 200, 3):
        damaged = bytearray(stream)
        damaged[at] ^= 0xFF
        ds.PixelData = encapsulate([bytes(damaged)])
        ds.save_as(tmp_path / "bad.dcm")
        with suppress(InputError):
            assert frames_of(tmp_path / "bad.dcm")


@pytest.mark.parametrize("body", [b"", b"hello, this is text", bytes(200), b"\x08\x00" * 300, bytes(128) + b"DICM"])
def test_what_is_no_dicom_is_an_input_error(tmp_path, body):
    (tmp_path / "a.dcm").write_bytes(body)
    with pytest.raises(InputError):
        frames_of(tmp_path / "a.dcm")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm"]), st.data())
def test_damage_anywhere_gives_frames_or_an_input_error(tmp_path_factory, name, draw):
    body = bytearray((SHIPPED / name).read_bytes())
    for _ in range(3):
        body[draw.draw(st.integers(0, min(len(body), 3000) - 1))] = draw.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.dcm"
    path.write_bytes(body[: draw.draw(st.integers(1, len(body)))])
    with suppress(InputError):
        assert frames_of(path)
    with suppress(InputError):
        assert count_frames(path) >= 0


@pytest.mark.realdata
def test_all_valid_files_decode_to_plausible_frames(data):
    paths = sorted((data / "dicom" / "valid").glob("*.dcm"))
    assert paths
    for path in paths:
        frames = frames_of(path)
        assert frames, path.name
        assert all(isinstance(f, Frame) and f.pixels.std() > 1 for f in frames), path.name


@pytest.mark.realdata
def test_all_files_without_image_say_so(data):
    for path in sorted((data / "dicom" / "no-image").glob("*.dcm")):
        with pytest.raises(InputError, match="holds no image"):
            frames_of(path)


@pytest.mark.realdata
def test_all_broken_files_give_frames_or_a_clear_error(data):
    for path in sorted((data / "dicom" / "broken").glob("*.dcm")):
        with suppress(InputError):
            assert frames_of(path), path.name


@dataclass
class Heard(Backbone):
    """A backbone that remembers what it is given, and gives one feature of it."""

    heard: list[np.ndarray] = field(default_factory=list)
    name: str = "heard"
    channels: int = 1
    stride: int = 16

    def open_early(self, size: int) -> RunEarly:  # noqa: ARG002  It takes images of any size.
        """Remember, and give every 16th pixel."""

        def run(images: np.ndarray) -> np.ndarray:
            self.heard.extend(images)
            return images[:, :1, :: self.stride, :: self.stride]

        return run


class HeardSession:
    """An extractor's session that remembers what it is given."""

    def __init__(self, session: Any) -> None:
        self.heard: list[np.ndarray] = []
        self.get_inputs, self._session = session.get_inputs, session

    def run(self, names: Any, given: dict[str, np.ndarray]) -> Any:
        """As ONNX Runtime's."""
        self.heard.extend(given["image"])
        return self._session.run(names, given)


@pytest.mark.parametrize("kind", ["png", "tif", "window", "no window", "rescaled", "CT"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_training_and_device_give_the_extractor_the_same_tensor(tmp_path, kind, photometric, bits):
    """Training by the labelled folder, its cache and its tuning; the device by its source and runtime: bit by bit."""
    tags = {
        "window": {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2 ** (bits - 1)},
        "rescaled": {"RescaleSlope": "0.5", "RescaleIntercept": "-3"},
        "CT": {"RescaleSlope": "1", "RescaleIntercept": "-1024", "Modality": "CT"},
    }.get(kind, {})
    rng, images = np.random.default_rng(bits), tmp_path / "images"
    for name in ("one", "two"):
        (images / name).mkdir(parents=True)
        for i in range(2):
            values = rng.integers(0, 2**bits, (50, 70)).astype(np.uint8 if bits == 8 else np.uint16)
            if kind in ("png", "tif"):
                Image.fromarray(values).save(images / name / f"{i}.{kind}")
            else:
                path = images / name / f"{i}.dcm"
                write(path, values, **{"PhotometricInterpretation": photometric, "BitsStored": bits, **tags})
    frames = [f for f in open_labelled(images).frames() if isinstance(f, Frame)]
    learner = Heard()
    training = FoundingSettings(size=64, blank_border=False)  # As the package has it.
    given = training.preprocessing
    fill_cache(frames, learner, task=Task.CLASSIFICATION, classes=2, preprocessing=given, augmentations=0, seed=1)
    squares = Squares(frames, task=Task.CLASSIFICATION, classes=2, settings=training, stride=16)
    package = tiny_package(tmp_path / "package", task=Task.CLASSIFICATION)
    session = HeardSession(open_session(package.file(EXTRACTOR)))
    runtime = Runtime(package, extractor=session)
    for frame in open_source(images):
        assert isinstance(frame, Frame)
        runtime.extract(frame.pixels)
    assert len(session.heard) == len(frames) == 4
    np.testing.assert_array_equal(session.heard, learner.heard[1:])  # the first was a trial
    np.testing.assert_array_equal(session.heard, squares.batch(range(4)).x)
    assert np.ptp(session.heard[0]) > 0.5
