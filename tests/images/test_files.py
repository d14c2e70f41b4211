"""Still images of every pixel type, and every way in which one can be bad."""

import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.images.files import read_mask, still_frames
from featureloop.images.scale import to_uint8


def one(path: Path) -> np.ndarray:
    (frame,) = still_frames(path, name=path.name)
    return frame.pixels


def test_lossless_formats_keep_every_value(tmp_path, gradient):
    for name, options in {
        "a.png": {},
        "a.bmp": {},
        "a.webp": {"lossless": True},
        "plain.tif": {},
        "lzw.tif": {"compression": "tiff_lzw"},
        "deflate.tif": {"compression": "tiff_adobe_deflate"},
        "packbits.tif": {"compression": "packbits"},
    }.items():
        Image.fromarray(gradient).save(tmp_path / name, **options)
        assert np.array_equal(one(tmp_path / name), gradient), name


def test_lossy_formats_come_close(tmp_path, gradient):
    for name, options in {
        "a.jpg": {"quality": 95},
        "jpeg.tif": {"compression": "jpeg", "quality": 95},
        "a.jp2": {"quality_layers": [2]},
    }.items():
        Image.fromarray(gradient).save(tmp_path / name, **options)
        assert np.abs(one(tmp_path / name).astype(int) - gradient).mean() < 6, name


def test_type_is_recognized_by_content_whatever_the_file_is_called(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(one(tmp_path / "a.jpg"), gradient)


def test_grey_palette_cmyk_and_one_bit_become_rgb(tmp_path, gradient):
    image = Image.fromarray(gradient)
    image.convert("L").save(tmp_path / "l.png")
    image.convert("P").save(tmp_path / "p.png")
    image.convert("CMYK").save(tmp_path / "c.tif")
    image.convert("1").save(tmp_path / "1.png")
    assert np.array_equal(one(tmp_path / "l.png")[:, :, 1], np.asarray(image.convert("L")))
    assert np.array_equal(one(tmp_path / "p.png"), np.asarray(image.convert("P").convert("RGB")))
    assert np.abs(one(tmp_path / "c.tif").astype(int) - gradient).max() <= 1
    assert set(np.unique(one(tmp_path / "1.png"))) == {0, 255}


def test_transparency_is_laid_over_black(tmp_path, gradient):
    alpha = np.full(gradient.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.dstack([gradient, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([gradient[:, :, 0], alpha])).save(tmp_path / "la.png")
    assert not one(tmp_path / "rgba.png")[:10].any()
    assert np.array_equal(one(tmp_path / "rgba.png")[10:], gradient[10:])
    assert not one(tmp_path / "la.png")[:10].any()
    assert np.array_equal(one(tmp_path / "la.png")[10:, :, 2], gradient[10:, :, 0])


@pytest.mark.parametrize("top", [255, 1000, 4095, 4200, 65535])
def test_sixteen_bit_grey_is_scaled_by_its_range(tmp_path, top):
    ramp = np.linspace(0, top, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert np.array_equal(one(tmp_path / name)[:, :, 0].ravel(), np.arange(256)), name


@pytest.mark.parametrize("least", [0, 4096])
def test_a_little_more_light_is_a_little_more_brightness_and_one_bright_pixel_is_none(least):
    """At 4,096 a number of bits ends, and at 255 another one: no picture may change at it."""
    values = np.random.default_rng(0).integers(0, least or 250, (64, 64)).astype(np.uint16)
    shown = to_uint8(values).astype(int)
    for change in (np.uint16(1), np.uint16(6)):
        assert np.abs(to_uint8(values + change) - shown).max() <= change
    bright = values.copy()
    bright[5, 6] = 65_535
    found = to_uint8(bright).astype(int)
    found[5, 6] = shown[5, 6]
    assert np.abs(found - shown).max() <= 1


def test_values_far_from_zero_take_the_upper_half_of_the_brightness():
    """CT as 16-bit PNG with an offset of 32768, as DeepLesion has it (Yan et al. 2018)."""
    units = np.random.default_rng(0).integers(-1000, 1000, (64, 64))
    shown = to_uint8((units + 32_768).astype(np.uint16)).astype(int)
    assert shown.min() in range(126, 130)
    assert shown.max() == 255
    assert len(np.unique(shown)) > 120


def test_sixteen_bit_colour_of_twelve_bits_is_not_cut_to_its_high_bytes(tmp_path, gradient):
    deep = gradient.astype(np.uint16) * 16
    deep[0] = 4095
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    assert np.abs(one(tmp_path / "a.png").astype(int)[1:] - gradient[1:]).max() <= 1


def test_big_endian_tiff_reads_like_little_endian(tmp_path):
    values = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    (tmp_path / "be.tif").write_bytes(tiff([values], order=">"))
    (tmp_path / "le.tif").write_bytes(tiff([values], order="<"))
    assert np.array_equal(one(tmp_path / "be.tif"), one(tmp_path / "le.tif"))
    assert one(tmp_path / "be.tif").max() == 255


def test_float_tiff_in_the_unit_range_is_scaled_by_it(tmp_path):
    Image.fromarray(np.linspace(0, 0.5, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    assert one(tmp_path / "f.tif").max() == 128


def test_float_colour_tiff_that_pillow_does_not_know_is_read(tmp_path):
    values = np.random.default_rng(0).random((8, 9, 3), np.float32)
    (tmp_path / "f.tif").write_bytes(tiff([values], order="<"))
    assert np.abs(one(tmp_path / "f.tif") - values * 255).max() <= 0.51


def test_float_tiff_with_nan_says_how_many(tmp_path):
    values = np.zeros((8, 8), np.float32)
    values[0, :3] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match="3 of 64 values are NaN"):
        one(tmp_path / "nan.tif")


def test_every_page_of_a_tiff_is_a_frame(tmp_path, gradient):
    pages = [Image.fromarray(np.roll(gradient, i, axis=0)) for i in range(3)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    frames = list(still_frames(tmp_path / "m.tif", name="m.tif", group="g"))
    assert [(f.index, f.group) for f in frames] == [(0, "g"), (1, "g"), (2, "g")]
    assert np.array_equal(frames[2].pixels, np.roll(gradient, 2, axis=0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "deep.tif"])
def test_exif_orientation_brings_the_image_upright(tmp_path, gradient, orientation, name):
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](gradient))
    if name == "deep.tif":
        (tmp_path / name).write_bytes(tiff([stored.astype(np.uint16) * 257], order="<", orientation=orientation))
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
    upright = to_uint8(gradient.astype(np.uint16) * 257) if name == "deep.tif" else gradient
    assert np.array_equal(one(tmp_path / name), upright)


def test_empty_file_says_so(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
        one(tmp_path / "a.png")


def test_missing_file_says_so(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        one(tmp_path / "a.png")


def test_text_named_png_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(InputError, match="no PNG, JPEG"):
        one(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.jp2"])
def test_truncated_file_is_an_input_error(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        one(tmp_path / name)


def test_unreadable_file_says_permission_denied(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.png"))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="permission denied"):
        one(tmp_path / "a.png")


def test_folder_and_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(InputError, match="no regular file"):
            one(path)


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(InputError, match="make it smaller"):
        one(tmp_path / "bomb.png")


def test_odd_tiff_bomb_is_refused_by_its_header(tmp_path):
    small = np.zeros((4, 4, 3), np.float32)
    (tmp_path / "bomb.tif").write_bytes(tiff([small], order="<", claimed=(50_000, 50_000)))
    with pytest.raises(InputError, match="megapixels"):
        one(tmp_path / "bomb.tif")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0"]))
def test_any_bytes_give_frames_or_an_input_error(tmp_path_factory, body, magic):
    path = tmp_path_factory.mktemp("fuzz") / "a.png"
    path.write_bytes(magic + body)
    with suppress(InputError):
        assert list(still_frames(path, name="a"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["png", "jpeg", "tiff", "webp"]))
def test_damage_anywhere_gives_frames_or_an_input_error(tmp_path_factory, seed, kind):
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for at in rng.integers(0, len(data), 5):
        data[at] = rng.integers(256)
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(data)
    with suppress(InputError):
        assert list(still_frames(path, name="a"))


def test_mask_is_true_above_127(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]


def test_one_bit_and_sixteen_bit_masks_read_like_eight_bit_ones(tmp_path):
    inside = np.eye(8, dtype=np.bool_)
    Image.fromarray(inside).save(tmp_path / "1.png")
    Image.fromarray(inside.astype(np.uint16) * 255).save(tmp_path / "16.png")
    assert np.array_equal(read_mask(tmp_path / "1.png"), inside)
    assert np.array_equal(read_mask(tmp_path / "16.png"), inside)


def test_mask_of_classes_is_refused_and_an_empty_one_is_not(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "classes.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(InputError, match="largest value is 1,"):
        read_mask(tmp_path / "classes.png")
    for grey in (20, 100, 127):
        Image.fromarray(np.eye(8, dtype=np.uint8) * np.uint8(grey)).save(tmp_path / "grey.png")
        with pytest.raises(InputError, match=f"largest value is {grey},"):
            read_mask(tmp_path / "grey.png")
    assert not read_mask(tmp_path / "empty.png").any()


def test_constant_and_negative_values_follow_the_declared_rules():
    assert to_uint8(np.full((2, 2), -7.5)).tolist() == [[0, 0], [0, 0]]
    assert to_uint8(np.zeros((2, 2), np.uint16)).tolist() == [[0, 0], [0, 0]]
    assert to_uint8(np.array([[-10, 0, 10]])).tolist() == [[0, 128, 255]]
    assert to_uint8(np.array([[0, 2**31]])).tolist() == [[0, 255]]
    with pytest.raises(InputError, match="complex"):
        to_uint8(np.zeros(2, np.complex64))


def tiff(pages, *, order: str, orientation: int = 1, claimed: tuple[int, int] | None = None) -> bytes:
    """An uncompressed TIFF by the book (TIFF 6.0): an oracle that shares no code with the readers."""
    out = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4))
    link = 4
    for page in pages:
        height, width = claimed or page.shape[:2]
        channels = page.shape[2] if page.ndim == 3 else 1
        strip = len(out)
        out += page.astype(page.dtype.newbyteorder(order)).tobytes()
        bits = len(out)
        out += struct.pack(f"{order}{channels}H", *[page.dtype.itemsize * 8] * channels)
        out += bytes(len(out) % 2)
        entries = [
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, channels, bits if channels > 2 else page.dtype.itemsize * 8),
            (259, 3, 1, 1),
            (262, 3, 1, 2 if channels == 3 else 1),
            (273, 4, 1, strip),
            (274, 3, 1, orientation),
            (277, 3, 1, channels),
            (278, 4, 1, height),
            (279, 4, 1, page.nbytes),
            (339, 3, 1, 3 if page.dtype.kind == "f" else 1),
        ]
        struct.pack_into(order + "I", out, link, len(out))
        out += struct.pack(order + "H", len(entries))
        for tag, kind, number, value in entries:
            short = kind == 3 and number == 1
            out += struct.pack(order + "HHI", tag, kind, number) + struct.pack(
                order + ("HH" if short else "I"), *([value, 0] if short else [value])
            )
        link = len(out)
        out += bytes(4)
    return bytes(out)
