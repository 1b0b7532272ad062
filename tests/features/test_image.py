import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from kornia.geometry.transform import resize
from PIL import Image, ImageOps

from pyg_match.features import load_image, resize_image
from pyg_match.features.image import load_resized
from pyg_match.ops.convolution import sample_at

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (11, 7, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (11, 7, 3), dtype=np.uint16)


def expected(pixels, full=255):
    """[H, W, 3] or [H, W] integers as the tensor load_image should give."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / full)


def equal(image, reference, atol=1e-6):
    assert image.dtype == torch.float32 and image.is_contiguous()
    torch.testing.assert_close(image, reference, atol=atol, rtol=0)


@pytest.mark.parametrize("suffix", ["png", "ppm", "tif", "bmp"])
def test_rgb_and_grey_files(tmp_path, suffix):
    path = tmp_path / f"bild ä.{suffix}"
    Image.fromarray(RGB).save(path)
    equal(load_image(path), expected(RGB))
    equal(load_image(str(path)), expected(RGB))
    Image.fromarray(RGB[..., 0]).save(path)
    equal(load_image(path), expected(RGB[..., 0]))


def test_jpeg(tmp_path):
    smooth = cv2.GaussianBlur(cv2.resize(RGB, (96, 128), interpolation=cv2.INTER_CUBIC), (0, 0), 5)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(smooth[..., 0]).save(tmp_path / "grey.jpeg", quality=95)
    equal(load_image(tmp_path / "a.jpg"), expected(smooth), atol=0.03)
    equal(load_image(tmp_path / "cmyk.jpg"), expected(smooth), atol=0.05)
    equal(load_image(tmp_path / "grey.jpeg"), expected(smooth[..., 0]), atol=0.03)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_16_bit_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), RGB16[..., ::-1])
    equal(load_image(path), expected(RGB16, 65535))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), RGB16[..., 0])
    equal(load_image(path), expected(RGB16[..., 0], 65535))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_with_alpha(tmp_path, suffix):
    alpha = RNG.integers(0, 65536, (11, 7, 1), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.dstack([RGB16[..., ::-1], alpha]))
    equal(load_image(path), expected(RGB16, 65535) * expected(alpha[..., 0], 65535))


def test_32_bit_grey(tmp_path):
    pixels = RGB16[..., 0].astype(np.int32)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    equal(load_image(tmp_path / "a.tif"), expected(pixels, 65535))
    tifffile.imwrite(tmp_path / "a.tif", -pixels)
    with pytest.raises(ValueError, match=r"a\.tif .*integer pixels run from -.* expected none below 0"):
        load_image(tmp_path / "a.tif")


def test_16_bit_that_opencv_cannot_read(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), RGB16[..., ::-1])
    monkeypatch.setattr(cv2, "imdecode", lambda *args: None)
    equal(load_image(tmp_path / "a.png"), expected(RGB16, 65535), atol=1 / 255)


def test_float_tiff(tmp_path):
    pixels = RNG.random((5, 6), dtype=np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    equal(load_image(tmp_path / "a.tif"), torch.from_numpy(pixels).expand(3, -1, -1))
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: 1 of 30 values are NaN"):
        load_image(tmp_path / "a.tif")


def test_alpha_is_laid_over_black(tmp_path):
    alpha = RNG.integers(0, 256, (11, 7, 1), dtype=np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([RGB[..., :1], alpha]), mode="LA").save(tmp_path / "la.png")
    opacity = expected(alpha[..., 0])
    equal(load_image(tmp_path / "rgba.png"), expected(RGB) * opacity)
    equal(load_image(tmp_path / "la.png"), expected(RGB[..., 0]) * opacity)
    equal(load_image(np.dstack([RGB, alpha])), expected(RGB) * opacity)
    equal(load_image(torch.from_numpy(np.dstack([RGB, alpha])).permute(2, 0, 1)), expected(RGB) * opacity)


def test_palette_bits_and_transparent_colours(tmp_path):
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png")
    colours = np.asarray(palette.convert("RGB"))
    equal(load_image(tmp_path / "p.png"), expected(colours))
    palette.save(tmp_path / "p.gif")
    equal(load_image(tmp_path / "p.gif"), expected(colours))

    palette.save(tmp_path / "t.png", transparency=3)
    visible = np.asarray(palette) != 3
    equal(load_image(tmp_path / "t.png"), expected(colours * visible[..., None]))

    bits = RGB[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "b.png")
    equal(load_image(tmp_path / "b.png"), expected(bits, 1))


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_exif_data_that_are_none(ending, tmp_path):
    Image.fromarray(RGB).save(tmp_path / f"plain.{ending}", lossless=True)
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}", lossless=True, exif=b"Exif\x00\x00garbage!garbage!")
    equal(load_image(tmp_path / f"a.{ending}"), load_image(tmp_path / f"plain.{ending}"))


def test_exif_data_of_which_only_the_orientation_can_be_read(tmp_path):
    """A rational of which only the numerator is there, beside an orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    body = bytearray(exif.tobytes())
    place = body.index(struct.pack("<HH", 0x011A, 5) if b"II" in body[:8] else struct.pack(">HH", 0x011A, 5))
    body[place + 2 : place + 4] = struct.pack("<H" if b"II" in body[:8] else ">H", 2)  # text, in its place
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=bytes(body))
    equal(load_image(tmp_path / "a.png"), expected(np.rot90(RGB, -1)))


def test_drawings_are_refused_before_another_program_renders_them(tmp_path, monkeypatch):
    def rendered(*_, **__):
        raise AssertionError("Ghostscript is asked")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", rendered)
    (tmp_path / "a.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(ValueError, match=r"a\.jpg .*it is a drawing \(EPS\)"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
        equal(load_image(opened), expected(upright))
    assert upright.shape == ((11, 7, 3) if orientation < 5 else (7, 11, 3))
    equal(load_image(tmp_path / "a.png"), expected(upright))
    image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    assert load_image(tmp_path / "a.jpg").shape[1:] == upright.shape[:2]
    image.save(tmp_path / "a.tif", exif=exif)
    equal(load_image(tmp_path / "a.tif"), expected(upright))
    with Image.open(tmp_path / "a.tif") as opened:
        equal(load_image(opened), expected(upright))

    # Pillow cannot write 16-bit RGB: put its EXIF block into OpenCV's file.
    png = cv2.imencode(".png", RGB16[..., ::-1])[1].tobytes()
    body = exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    (tmp_path / "deep.png").write_bytes(png[:33] + chunk + png[33:])
    rows = np.arange(77, dtype=np.uint8).reshape(11, 7)  # where each pixel goes
    order = np.asarray(ImageOps.exif_transpose(_with_orientation(Image.fromarray(rows), orientation)))
    reference = expected(RGB16.reshape(-1, 3)[order], 65535)
    equal(load_image(tmp_path / "deep.png"), reference)
    tifffile.imwrite(tmp_path / "deep.tif", RGB16, extratags=[(0x0112, 3, 1, orientation, True)])
    equal(load_image(tmp_path / "deep.tif"), reference)


def _with_orientation(image, orientation):
    image.getexif()[0x0112] = orientation
    return image


@pytest.mark.parametrize("dtype, full", [(np.uint8, 255), (np.uint16, 65535), (np.bool_, 1)])
def test_integer_arrays_and_tensors(dtype, full):
    pixels = (RGB16 * (full / 65535)).astype(dtype) if full > 1 else RGB > 127
    for array in (pixels, pixels[::-1, ::2], pixels.astype(pixels.dtype.newbyteorder(">"))):
        equal(load_image(array), expected(array, full))
    equal(load_image(pixels[..., 0]), expected(pixels[..., 0], full))
    equal(load_image(pixels[..., :1]), expected(pixels[..., 0], full))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    equal(load_image(tensor), expected(pixels, full))
    equal(load_image(tensor[0]), expected(pixels[..., 0], full))
    equal(load_image(tensor[:1]), expected(pixels[..., 0], full))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_and_tensors(dtype):
    pixels = RNG.random((5, 6, 3)).astype(dtype)
    reference = expected(pixels, 1)
    equal(load_image(pixels), reference)
    equal(load_image(torch.from_numpy(pixels).permute(2, 0, 1)), reference)
    pixels[0, 0] = 1.05  # an overshoot of interpolation
    assert load_image(pixels).max() == 1


def test_input_is_not_changed_or_shared():
    image = torch.rand(3, 4, 5)
    loaded = load_image(image)
    loaded.zero_()
    assert image.any()


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image at .*nothing\.png"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="the folder"):
        load_image(tmp_path)
    (tmp_path / "text.jpg").write_text("no image, only words")
    with pytest.raises(
        ValueError, match=r"text\.jpg is not an image, or cut off; its content begins with b'no image"
    ):
        load_image(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jpg is empty"):
        load_image(tmp_path / "empty.jpg")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "suffix, dtype",
    [("jpg", np.uint8)] + [(s, t) for s in ("png", "tif", "ppm") for t in (np.uint8, np.uint16)],
)
def test_files_cut_off(tmp_path, suffix, dtype):
    pixels = RNG.integers(0, np.iinfo(dtype).max, (64, 64, 3), dtype=dtype)
    data = cv2.imencode(f".{suffix}", pixels)[1].tobytes()
    for share in (0.02, 0.5, 0.95):
        path = tmp_path / f"cut{share}.{suffix}"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match=rf"cut{share}\.{suffix}"):
            load_image(path)


def test_decompression_bomb(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb += struct.pack(">I", 9) + b"IDAT"
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"bomb\.png is too large.*3600000000 pixels.*MAX_IMAGE_PIXELS"):
        load_image(tmp_path / "bomb.png")


def test_wrong_pixels():
    nan = np.zeros((4, 5))
    nan[1, 2:4] = np.nan, np.inf
    cases = [
        (nan, "2 of 20 values are NaN or infinite"),
        (torch.from_numpy(nan), "2 of 20"),
        (np.zeros((0, 5, 3)), r"no pixels.*\[3, 0, 5\]"),
        (torch.zeros(3, 5, 0), r"no pixels.*\[3, 5, 0\]"),
        (np.zeros((4, 5, 2)), r"1, 3 or 4 channels, got \[4, 5, 2\]"),
        (np.zeros((3, 40, 50)), r"\[H, W, C\].*got \[3, 40, 50\]"),
        (torch.zeros(40, 50, 3), r"\[C, H, W\].*got \[40, 50, 3\]"),
        (torch.zeros(1, 3, 40, 50), r"got \[1, 3, 40, 50\]"),
        (np.zeros(5), r"got \[5\]"),
        (RGB.astype(np.float32), r"pixels in \[0, 1\], got 0|pixels in \[0, 1\], got [0-9.]+ to"),
        (RGB.astype(np.int64), "got int64"),
        (torch.zeros(3, 4, 5, dtype=torch.int32), "got torch.int32"),
        (np.zeros((4, 5), dtype=complex), "got complex128"),
    ]
    for image, message in cases:
        with pytest.raises(ValueError, match=message):
            load_image(image)
    with pytest.raises(TypeError, match="got list"):
        load_image([[1, 2], [3, 4]])


@pytest.mark.parametrize("shape", [(480, 640), (641, 479), (100, 100), (7, 300)])
@pytest.mark.parametrize("size, side", [(320, "long"), (480, "short"), (33, "short"), (1024, "long")])
def test_resize_is_upstreams(shape, size, side):
    image = torch.rand(1, *shape) if max(shape) * size / min(shape) < 5000 else torch.rand(1, 7, 30)
    height, width = image.shape[-2:]
    resized, scale = resize_image(image, size, side)
    torch.testing.assert_close(resized, resize(image, size, side=side, antialias=True), rtol=0, atol=0)
    assert (max if side == "long" else min)(resized.shape[1:]) == size
    assert scale.tolist() == pytest.approx([resized.size(2) / width, resized.size(1) / height], rel=1e-6)


def test_coordinates_go_back():
    # The centre of mass of a blob, measured in the resized image, is where the blob was.
    y, x = torch.meshgrid(torch.arange(211.0), torch.arange(307.0), indexing="ij")
    centre = torch.tensor([101.3, 77.8])
    image = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 12**2))[None]
    for size, side in ((100, "short"), (97, "long"), (500, "long")):
        resized, scale = resize_image(image, size, side)
        v, u = torch.meshgrid(*(torch.arange(float(n)) for n in resized.shape[1:]), indexing="ij")
        mass = torch.stack([(resized[0] * u).sum(), (resized[0] * v).sum()]) / resized.sum()
        torch.testing.assert_close((mass + 0.5) / scale - 0.5, centre, atol=0.02, rtol=0)


def test_the_thinnest_images_keep_a_pixel():
    for shape, size in (((200, 1), (16, 1)), ((1, 200), (1, 16))):
        image, scale = resize_image(torch.rand(3, *shape), 16)
        assert image.shape == (3, *size)
        torch.testing.assert_close(scale, torch.tensor([size[1] / shape[1], size[0] / shape[0]]))


def test_resize_options():
    image = torch.rand(3, 60, 80)
    same, scale = resize_image(image, 100, upscale=False)
    assert same is image and scale.tolist() == [1, 1]
    assert resize_image(image, 70, side="short", upscale=False)[0] is image
    assert resize_image(image, 40, upscale=False)[0].shape == (3, 30, 40)
    assert resize_image(torch.rand(3, 2, 2000), 100)[0].shape == (3, 1, 100)
    average, _ = resize_image(image, 40, interpolation="area", antialias=False)
    torch.testing.assert_close(average, image.view(3, 30, 2, 40, 2).mean(dim=(2, 4)))
    for arguments, message in (
        ((image[0], 10), r"\[C, H, W\], got \[60, 80\]"),
        ((image[:, :0], 10), r"got \[3, 0, 80\]"),
        ((image, 0), "'size' must be a whole number of at least 1, got 0"),
        ((image, 10, "vert"), "'long' or 'short', got 'vert'"),
        ((image, 10, "long", True, "linear"), "'interpolation'"),
    ):
        with pytest.raises(ValueError, match=message):
            resize_image(*arguments)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        resize_image(image.byte(), 10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pixels_with_gradients_are_read_without_a_warning(dtype):
    pixels = torch.rand(3, 4, 5).to(dtype).requires_grad_()
    torch.testing.assert_close(load_image(pixels), pixels.float())
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -?\d.* to "):
        load_image(pixels * 10)


@pytest.mark.parametrize(("bits", "most"), [(8, 200), (12, 900), (12, 4000)])
@pytest.mark.parametrize("kind", ["file", "array", "tensor"])
def test_fewer_bits_in_16(tmp_path, bits, most, kind):
    """Cameras write numbers of 12 bits; taken as 16 bits such an image is black."""
    pixels = np.linspace(0, most, 77).astype(np.uint16).reshape(11, 7)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), pixels)
    source = {
        "file": path,
        "array": pixels,
        "tensor": torch.from_numpy(pixels.astype(np.int32)).to(torch.uint16),
    }
    with pytest.warns(UserWarning, match=rf"16-bit pixels up to {most} are taken as numbers of {bits} bits"):
        image = load_image(source[kind])
    equal(image, expected(pixels, 2**bits - 1))


def test_32_bit_numbers(tmp_path):
    pixels = RGB16[..., 0].astype(np.int32) * 2**15
    pixels[0, 0] = 2**30 + 5
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.warns(UserWarning, match=r"a\.tif: integer pixels up to \d+ are taken as numbers of 31 bits"):
        image = load_image(tmp_path / "a.tif")
    equal(image, expected(pixels / (2**31 - 1), 1), atol=1e-4)
    tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0].astype(np.int32))
    with pytest.warns(UserWarning, match="taken as numbers of 8 bits"):
        equal(load_image(tmp_path / "a.tif"), expected(RGB[..., 0]))


@pytest.mark.parametrize("pixels", [RGB // 20, (RGB / 255**2).astype(np.float32)])
def test_nearly_black_images_are_warned_about(pixels):
    with pytest.warns(
        UserWarning, match="array: the image is nearly black, its brightest pixel is 0.0.* of 1"
    ):
        load_image(pixels)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_black_images_and_usual_ones_are_not(dtype):
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    for share in (0, 0.3, 1):
        assert load_image(np.full((4, 5), share * full, dtype=dtype)).max() == pytest.approx(share, abs=0.01)


def test_float_rgb_tiff(tmp_path):
    pixels = RNG.random((5, 6, 3), dtype=np.float32)
    for data in (pixels, pixels.astype(np.float64)):
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb")
        equal(load_image(tmp_path / "a.tif"), expected(pixels, 1))
    tifffile.imwrite(tmp_path / "a.tif", 100 * pixels, photometric="rgb")
    with pytest.raises(ValueError, match=r"a\.tif: expected floating-point pixels in \[0, 1\]"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is a HEIC image, .* pillow-heif"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "is a Radiance HDR image, whose range has no bounds"),
        (b"\x76\x2f\x31\x01\x02\x00\x00\x00", "is an OpenEXR image, whose range has no bounds"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, data, message):
    (tmp_path / "a.bin").write_bytes(data + bytes(100))
    with pytest.raises(ValueError, match=rf"a\.bin {message}"):
        load_image(tmp_path / "a.bin")


def waves(height: int, width: int) -> np.ndarray:
    """A large photo without much detail: what shrinking leaves of it is known."""
    y, x = np.mgrid[:height, :width]
    values = [0.5 + 0.4 * np.sin((a * x + b * y) / height * 20) for a, b in ((1, 0), (0.6, 0.8), (0.2, -1))]
    return (255 * np.stack(values, axis=2)).astype(np.uint8)


def large_sources(folder, pixels):
    yield pixels
    yield torch.from_numpy(pixels).permute(2, 0, 1)
    yield Image.fromarray(pixels)
    yield (pixels / 255).astype(np.float32)
    yield pixels.astype(np.uint16) * 257
    for suffix in ("png", "jpg"):
        path = folder / f"large.{suffix}"
        Image.fromarray(pixels).save(path, quality=95)
        yield path


@pytest.mark.parametrize("shape", [(1200, 1600), (1203, 1605)])
@pytest.mark.parametrize(("size", "side"), [(150, "long"), (101, "short"), (260, "long")])
def test_large_images_are_what_the_whole_one_gives(tmp_path, shape, size, side):
    pixels = waves(*shape)
    whole, whole_scale = resize_image(load_image(pixels), size, side)
    for source in large_sources(tmp_path, pixels):
        image, scale, original = load_resized(source, size, side)
        assert original == (shape[1], shape[0]) and image.shape == whole.shape
        torch.testing.assert_close(scale, whole_scale, atol=0, rtol=0.01)
        # The frames may differ by the pixels that fill no square: compare what both have inside.
        y, x = torch.meshgrid(*(torch.arange(5.0, n - 5) for n in image.shape[1:]), indexing="ij")
        at = torch.stack([x, y], dim=2).view(-1, 2)
        there = ((at + 0.5) / scale) * whole_scale - 0.5
        torch.testing.assert_close(
            sample_at(image[None], at[None]), sample_at(whole[None], there[None]), atol=0.02, rtol=0
        )


@pytest.mark.parametrize("size", [180, 100, 57])
def test_large_images_are_as_smooth_as_the_whole_one_gives(size):
    """What is left of noise tells how many pixels were averaged."""
    noise = RNG.integers(0, 256, (600, 800, 3), dtype=np.uint8)
    whole, _ = resize_image(load_image(noise), size)
    assert load_resized(noise, size)[0].std().item() == pytest.approx(whole.std().item(), rel=0.12)


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("shape", [(800, 1200), (801, 1203)])
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_large_photos_that_are_turned(tmp_path, orientation, shape, suffix):
    """A blob is where it is in the upright photo, whatever scale the file is decoded at."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    blob = (255 * np.exp(-((x - 300) ** 2 + (y - 200) ** 2) / (2 * 60**2))).astype(np.uint8)
    image = Image.fromarray(blob)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    upright = np.asarray(ImageOps.exif_transpose(image)).astype(float)
    centre = [
        (upright * grid).sum() / upright.sum() for grid in np.mgrid[: upright.shape[0], : upright.shape[1]]
    ]
    resized, scale, size = load_resized(tmp_path / f"a.{suffix}", 100)
    assert size == (upright.shape[1], upright.shape[0])
    v, u = torch.meshgrid(*(torch.arange(float(n)) for n in resized.shape[1:]), indexing="ij")
    mass = torch.stack([(resized[0] * u).sum(), (resized[0] * v).sum()]) / resized[0].sum()
    found = (mass + 0.5) / scale - 0.5
    torch.testing.assert_close(found, torch.tensor([centre[1], centre[0]]).float(), atol=0.3, rtol=0)


def test_ranges_do_not_depend_on_the_size_at_which_an_image_is_read():
    """The brightest pixel decides, which the means of a smaller image may lack."""
    pixels = RNG.integers(0, 200, (800, 1000), dtype=np.uint16)
    pixels[3, 4] = 1500
    with pytest.warns(UserWarning, match="up to 1500 are taken as numbers of 12 bits"):
        image = load_resized(pixels, 100)[0]
    assert image.mean().item() == pytest.approx(0.5 * 200 / 4095, rel=0.05)
    wrong = RNG.random((800, 1000))
    wrong[3, 4] = 5
    with pytest.raises(ValueError, match=r"in \[0, 1\], got .* to 5"):
        load_resized(wrong, 100)
    wrong[3, 4:6] = np.nan
    with pytest.raises(ValueError, match="2 of 800000 values are NaN"):
        load_resized(wrong, 100)


@pytest.mark.parametrize("cut", [False, True])
def test_tiff_that_pillow_does_not_know_and_that_is_damaged(tmp_path, cut, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", RNG.random((60, 50, 3), dtype=np.float32), photometric="rgb")
    data = (tmp_path / "a.tif").read_bytes()
    if cut:
        (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        ValueError, match=r"a\.tif .*(too large to decode safely: 3000 pixels|cut off|damaged)"
    ):
        load_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("error")
def test_warnings_that_are_errors_are_not_called_damage(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB16[..., 0].astype(np.int32) * 2**15 + 5)
    with pytest.raises(UserWarning, match="taken as numbers of 31 bits"):
        load_image(tmp_path / "a.tif")


def test_images_of_few_pixels_are_not_enlarged():
    for shape in ((5, 5), (3, 15)):
        image, scale, size = load_resized(np.zeros((*shape, 3), np.uint8), 1024)
        assert image.shape == (3, *shape) and scale.tolist() == [1, 1] and size == (shape[1], shape[0])
    assert load_resized(np.zeros((16, 15), np.uint8), 64)[0].shape == (3, 64, 60)
    for shape, size in (
        ((50, 500), 8),
        ((50, 20000), 200),
        ((16, 4000), 3),
    ):  # whose border is as wide as they are
        assert load_resized(np.zeros((*shape, 3), np.uint8), size)[0].shape[2] == size
    assert load_resized(RGB.repeat(400, axis=1), 20)[0].shape == (3, 1, 20)


def test_images_with_alpha_are_not_shrunk_first(tmp_path):
    pixels = np.dstack([waves(900, 1200), np.full((900, 1200), 128, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected, _ = resize_image(load_image(pixels), 100)
    equal(load_resized(tmp_path / "a.png", 100)[0], expected)


def test_memory_of_a_large_photo(tmp_path):
    """One of 24 megapixels, decoded at a quarter; whole it would take more than 288 MB in single precision."""
    path = tmp_path / "a.jpg"
    Image.fromarray(waves(400, 600)).resize((6000, 4000)).save(path)
    code = (
        "import sys, resource, numpy; from PIL import Image; import cv2, kornia.geometry, kornia.filters\n"
        "from pyg_match.features.image import load_resized\n"
        "load_resized(numpy.zeros((900, 900, 3), numpy.uint8), 100)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); load_resized(sys.argv[1], 640); print((peak() - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


def test_numbers_wider_than_torch_has():
    pixels = RNG.random((5, 6)).astype(np.longdouble)
    assert torch.equal(load_image(pixels), load_image(pixels.astype(np.float64)))


def test_an_autocast_of_the_caller_does_not_round_images():
    image = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        resized = resize_image(image, 40)[0]
    assert torch.equal(resized, resize_image(image, 40)[0])
