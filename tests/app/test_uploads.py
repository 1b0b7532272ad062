import pytest
from PIL import Image

from pyg_match.app import Limits
from pyg_match.app.uploads import read_upload


def test_reads_an_image(photos):
    assert read_upload(photos[0], Limits()).shape == (3, 300, 400)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "image A cannot be read: broken.png is not an image, or damaged"),
        ("cut", r"image A cannot be read: cut.png \(\d+ bytes\) cannot be decoded; it is damaged, cut off"),
        (
            "bright",
            r"image A cannot be read: bright.tif: expected floating-point pixels in \[0, 1\], got 0 to 255",
        ),
        ("huge", "10000 x 10000 pixels are 100 megapixels, at most 40 are read"),
    ],
)
def test_refuses_bad_images(bad_images, name, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_upload(bad_images[name], Limits(), "image A")
    assert "/" not in str(refused.value)  # the server's folders are nobody's business


def test_large_images_are_refused_before_they_are_decoded(bad_images, monkeypatch, tmp_path):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(ValueError, match="100 megapixels"):
        read_upload(bad_images["huge"], Limits())
    bomb = tmp_path / "bomb.png"
    monkeypatch.undo()
    Image.new("1", (20_000, 10_000)).save(bomb)
    with pytest.raises(ValueError, match="too large"):
        read_upload(bomb, Limits())


def test_refuses_large_files_and_missing_ones(photos, tmp_path):
    with pytest.raises(ValueError, match=r"the image is too large: 0\.\d+ MiB, at most 0\.0625 MiB are read"):
        read_upload(photos[0], Limits(max_bytes=2**16))
    with pytest.raises(FileNotFoundError, match=r"there is no file nothing.png"):
        read_upload(tmp_path / "nothing.png", Limits())
