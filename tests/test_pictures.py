"""Pictures: every colour mode and depth is read, and what is written is read again."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from vqjax import pictures
from vqjax.errors import UserError


def picture(height, width, channels=3, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image, kind="png", **kwargs):
  buffer = io.BytesIO()
  image.save(buffer, kind, **kwargs)
  return buffer.getvalue()


def rgb(r, g, b, size=(6, 4)):
  return Image.new("RGB", size, (r, g, b))


@pytest.mark.parametrize(
  "mode,colour",
  [
    ("1", (255, 255, 255)),
    ("L", (90, 90, 90)),
    ("P", (200, 40, 90)),
    ("RGB", (200, 40, 90)),
    ("CMYK", (200, 40, 90)),
    ("YCbCr", (200, 40, 90)),
  ],
)
def test_decode_modes(mode, colour):
  kind = "jpeg" if mode in ("CMYK", "YCbCr") else "png"
  image = rgb(*colour).convert(mode) if mode != "P" else rgb(*colour).quantize(4)
  out = pictures.decode(encoded(image, kind))
  assert out.dtype == np.uint8 and out.shape == (4, 6, 3)
  np.testing.assert_allclose(
    out, np.broadcast_to(colour, (4, 6, 3)), atol=3 if kind == "jpeg" else 0
  )


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_decode_sixteen_bit_grey(kind):
  deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
  out = pictures.decode(encoded(Image.fromarray(deep), kind))
  np.testing.assert_allclose(out[..., 0], deep / 257, atol=0.51)
  dark = pictures.decode(encoded(Image.fromarray(deep // 300), kind))
  assert dark.max() == 1  # 16 bits have one white, however dark the picture


def tiff(pixels, sample_format):
  """One strip, no compression: types that PIL reads and does not write."""
  height, width = pixels.shape
  tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1}
  tags |= {278: height, 279: pixels.nbytes, 339: sample_format}
  entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
  body = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
  return (
    b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", 10) + entries + bytes(4)
  )


@pytest.mark.parametrize(
  "dtype,white",
  [("f4", 1), ("f4", 255), ("f4", 65535), ("i4", 255), ("i4", 65535), ("u4", 2**32 - 1)],
)
def test_decode_wide_grey(dtype, white):
  values = (np.linspace(0, 1, 24).reshape(4, 6) * white).astype(dtype)
  out = pictures.decode(tiff(values, {"u": 1, "i": 2, "f": 3}[dtype[0]]))
  assert out.dtype == np.uint8 and out.shape == (4, 6, 3)
  np.testing.assert_allclose(out[..., 0], values.astype(float) * 255 / white, atol=0.51)


def test_floats_that_overshoot_are_clipped():
  values = np.float32([[-0.03, 0.5, 1.02]])
  assert pictures.decode(tiff(values, 3))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
  "values,message",
  [
    (np.float32([[0, np.nan]]), "not finite"),
    (np.float32([[0, np.inf]]), "not finite"),
    (np.float32([[-1, 1]]), r"from -1 to 1; save floats in \[0, 1\] or"),
    (np.float32([[0, 1e6]]), r"from 0 to 1e\+06; save floats"),
    (np.int32([[-500, 200]]), "from -500 to 200.*integers from 0 on"),
  ],
)
def test_pixels_without_a_meaning_are_named(tmp_path, values, message):
  file = tmp_path / "a.tiff"
  file.write_bytes(tiff(values, 3 if values.dtype.kind == "f" else 2))
  with pytest.raises(UserError, match=rf"a\.tiff: cannot be read as an image \(.*{message}"):
    pictures.read(file)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_lays_transparency_on_white(mode):
  image = Image.new("RGBA", (4, 2), (100, 100, 100, 255))
  image.putpixel((0, 0), (0, 0, 0, 0))
  image = image.quantize(4) if mode == "P" else image.convert(mode)
  out = pictures.decode(encoded(image))
  np.testing.assert_array_equal(out[0, 0], [255, 255, 255])
  np.testing.assert_array_equal(out[1, 3], [100, 100, 100])


def test_decode_turns_upright():
  image = Image.fromarray(picture(3, 5))
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees counter-clockwise to view
  out = pictures.decode(encoded(image, exif=exif))
  np.testing.assert_array_equal(out, np.rot90(np.asarray(image), 3))


def test_decode_takes_the_first_frame_of_a_gif(tmp_path):
  frames = [rgb(255, 0, 0), rgb(0, 0, 255)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
  np.testing.assert_array_equal(pictures.decode(tmp_path / "a.gif")[0, 0], [255, 0, 0])


def test_reading_a_file(tmp_path):
  (tmp_path / "sub").mkdir()
  rgb(9, 9, 9).save(tmp_path / "sub" / "B.PNG")
  rgb(9, 9, 9).save(tmp_path / "a.jpg")
  rgb(9, 9, 9).save(tmp_path / ".hidden.png")
  (tmp_path / "notes.md").write_text("x")
  (tmp_path / "bad.png").write_bytes(b"no")
  assert pictures.read(tmp_path / "sub" / "B.PNG", 1).shape == (4, 6, 1)
  with pytest.raises(UserError, match=r"bad\.png: cannot be read"):
    pictures.read(tmp_path / "bad.png")


def test_channels():
  image = picture(4, 6)
  grey = pictures.to_channels(image, 1)
  np.testing.assert_allclose(grey[..., 0], image @ [0.299, 0.587, 0.114], atol=0.6)
  np.testing.assert_array_equal(pictures.to_channels(pictures.to_channels(grey, 3), 1), grey)
  assert pictures.to_channels(image, None) is image


def test_fit():
  image = picture(5, 8)
  np.testing.assert_array_equal(pictures.fit(image, 5, 8), image)
  assert pictures.fit(image[..., :1], 3, 11).shape == (3, 11, 1)


def test_pixels_round_trip():
  pixels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(pictures.to_uint8(pixels.astype(np.float32) / 127.5 - 1), pixels)


def test_a_sheet_places_rows_and_enlarges(tmp_path):
  rows = [np.full((2, side, side, 1), v, np.uint8) for side, v in ((8, 10), (16, 200))]
  sheet = pictures.sheet(rows, gap=2, enlarge=16)
  assert sheet.shape == (34, 34, 3)
  assert sheet[0, 0, 0] == 10 and sheet[33, 33, 2] == 200 and sheet[16, 16, 0] == 255
  pictures.save(tmp_path / "a" / "b.png", sheet)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "b.png")), sheet)


def test_captions_stand_below_their_pictures():
  rows = [np.zeros((2, 64, 64, 3), np.uint8)] * 2
  captions = [["a red circle above a blue square"] * 2, ["", "日本 " + "word " * 3_000]]
  sheet = pictures.sheet(rows, captions=captions)
  foot = (sheet.shape[0] - 2 * 64 - 2) // 2
  assert sheet.shape[1] == 130 and 50 < foot < 90  # five lines
  dark = (sheet[64 : 64 + foot] < 128).any(-1)
  assert dark[:, :64].any() and dark[:, 66:].any() and not dark[:, 64:66].any()
  assert not (sheet[-foot:, :64] < 128).any() and (sheet[-foot:, 66:] < 128).any()
  np.testing.assert_array_equal(pictures.sheet(rows, captions=[["", ""]] * 2), pictures.sheet(rows))


@pytest.mark.parametrize("name", ["a", "a.npz", "a.docx"])
def test_a_suffix_that_is_no_picture_is_refused(tmp_path, name):
  with pytest.raises(UserError, match="is no picture format; end the name in .png"):
    pictures.save(tmp_path / "new" / name, picture(2, 2))
  assert not (tmp_path / "new").exists()


def test_rows_are_broken_where_a_page_is_narrow():
  part = lambda rows: [(i, (s.start, s.stop)) for i, s in rows]
  assert part(pictures.broken([3, 2], None)) == [(0, (0, 3)), (1, (0, 3))]
  one_by_one = [(0, (0, 2)), (0, (2, 4)), (1, (0, 2))]
  assert part(pictures.broken([3, 2], 2)) == one_by_one
  together = [(0, (0, 2)), (1, (0, 2)), (0, (2, 4)), (1, (2, 4))]
  assert part(pictures.broken([3, 3], 2, together=True)) == together
