"""Kind 4: every picture as it was shown, whatever its mode, orientation and format; what is no picture is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.corruption.case import Input, case
from tests.corruption.makers.arrays import array_input
from tests.corruption.makers.bids import bids_input
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.makers.raw import raw_input
from tests.corruption.numbered import APPLE_DOUBLE, draw, png

Save = Callable[[Path, int], Any]
NUMBERS = range(1, 13)


def image_of(number: int) -> Image.Image:
    return Image.fromarray(draw(number))


def grey_of(number: int) -> np.ndarray:
    return np.asarray(image_of(number).convert("L"))


def as_rgb(x_HW: np.ndarray) -> np.ndarray:
    return np.repeat(x_HW[..., None], 3, axis=2)


def replaced(save: Save, ending: str, numbers: Any = NUMBERS) -> Callable[[Path], Path]:
    """Write the pictures anew, by `save`, under another ending."""

    def rewrite(folder: Path) -> Path:
        for number in numbers:
            (folder / png(number)).unlink()
            save(folder / f"img{number:02d}.{ending}", number)
        return folder

    return rewrite


def pictured(
    folder: Path, save: Save, ending: str = "png", shown: Mapping[int, np.ndarray] | None = None, tolerance: int = 2
) -> Input:
    """An array study whose pictures are saved so."""
    given = array_input(folder, pictures=replaced(save, ending))
    pictures = {i: draw(i) for i in NUMBERS} if shown is None else shown
    return Input(
        given.read,
        shown=given.shown,
        path=given.path,
        images=given.images,
        carried=given.carried,
        pictures=pictures,
        tolerance=tolerance,
    )


# --- orientation ------------------------------------------------------------------------------------------------------

TURNS = {  # EXIF orientation: how the stored picture must have been turned for it to be shown upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def turned(orientation: int, **how: Any) -> Save:
    exif = Image.Exif()
    exif[0x0112] = orientation

    def save(path: Path, number: int) -> None:
        stored = image_of(number)
        stored = stored.transpose(TURNS[orientation]) if orientation in TURNS else stored
        stored.save(path, exif=exif, **how)

    return save


JPEG = {"quality": 100, "subsampling": 0}
case(4, "array", "EXIF 1", pictured, turned(1, **JPEG), "jpg", tolerance=12)
for orientation in TURNS:
    case(4, "array", f"EXIF {orientation}", pictured, turned(orientation, **JPEG), "jpg", tolerance=12)
case(4, "array", "EXIF 6 in a PNG", pictured, turned(6))
case(4, "array", "EXIF 6 in a WebP", pictured, turned(6, lossless=True), "webp")
case(4, "array", "EXIF 6 in a TIFF", pictured, turned(6), "tif")


def one_turned(folder: Path) -> Path:
    turned(6, **JPEG)(folder / "img05.jpg", 5)
    (folder / "img05.png").unlink()
    return folder


SAVED_SO = {"epochs": epochs_input, "raw": lambda f: raw_input(f, disk=png), "bids": lambda f: bids_input(f, disk=png)}


def of_reader(folder: Path, reader: str, change: Callable[[Path], Any]) -> Input:
    """The reader's input, its folder of images changed after it was written."""
    given = SAVED_SO[reader](folder)
    change(folder / "images")
    return given


for reader in SAVED_SO:
    case(4, reader, "one picture turned by EXIF", of_reader, reader, one_turned)

# --- modes ------------------------------------------------------------------------------------------------------------

ALPHA_ROWS = slice(0, 4)  # transparent rows
GROUND = 255


def with_alpha(number: int) -> np.ndarray:
    """RGBA: noise lies under the transparent rows."""
    x_HW4 = np.dstack([draw(number), np.full(draw(number).shape[:2], 255, np.uint8)])
    x_HW4[ALPHA_ROWS, :, 3] = 0
    x_HW4[ALPHA_ROWS, :, :3] = np.random.default_rng(number).integers(0, 255, x_HW4[ALPHA_ROWS, :, :3].shape)
    return x_HW4


def on_ground(number: int) -> np.ndarray:
    shown = draw(number)
    shown[ALPHA_ROWS] = GROUND
    return shown


def half_transparent(number: int) -> np.ndarray:
    return np.dstack([draw(number), np.full(draw(number).shape[:2], 128, np.uint8)])


def blended(number: int) -> np.ndarray:
    return np.rint(draw(number) * (128 / 255) + 255 * (1 - 128 / 255)).astype(np.uint8)


def save_palette_transparent(path: Path, number: int) -> None:
    x_HW4 = with_alpha(number)
    x_HW = np.zeros(x_HW4.shape[:2], np.uint8)
    colours = [(0, 0, 0), (255, 255, 255), (200, 30, 30), (1, 99, 1)]
    for i, colour in enumerate(colours[:3]):
        x_HW[(draw(number) == colour).all(2)] = i
    x_HW[ALPHA_ROWS] = 3
    image = Image.frombytes("P", x_HW.shape[::-1], x_HW.tobytes())
    image.putpalette([v for colour in colours for v in colour])
    image.save(path, transparency=3)


def lab(number: int) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return ImageCms.applyTransform(image_of(number), transform)


def with_profile(path: Path, number: int) -> None:
    image_of(number).save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


GREYS = {i: as_rgb(grey_of(i)) for i in NUMBERS}
BLACK_AND_WHITE = {i: as_rgb(np.asarray(image_of(i).convert("1").convert("L"))) for i in NUMBERS}
CMYK = {i: np.asarray(image_of(i).convert("CMYK").convert("RGB")) for i in NUMBERS}


def array_of(number: int, dtype: Any, factor: float) -> Image.Image:
    return Image.fromarray((grey_of(number).astype(float) * factor).astype(dtype))


MODES: dict[str, tuple[Save, str, Mapping[int, np.ndarray] | None, int, str]] = {
    "RGB": (lambda p, i: image_of(i).save(p), "png", None, 0, ""),
    "grey": (lambda p, i: image_of(i).convert("L").save(p), "png", GREYS, 0, ""),
    "black and white": (lambda p, i: image_of(i).convert("1").save(p), "png", BLACK_AND_WHITE, 0, ""),
    "16-bit grey": (lambda p, i: array_of(i, np.uint16, 257).save(p), "png", GREYS, 2, r"(?i)16.?bit"),
    "16-bit grey TIFF": (lambda p, i: array_of(i, np.uint16, 257).save(p), "tif", GREYS, 2, r"(?i)16.?bit"),
    "32-bit grey TIFF": (lambda p, i: array_of(i, np.int32, 1).save(p), "tif", None, -1, r"(?i)32.?bit|int|range|mode"),
    "float TIFF of 0 to 1": (
        lambda p, i: array_of(i, np.float32, 1 / 255).save(p),
        "tif",
        None,
        -1,
        r"(?i)float|range|mode",
    ),
    "palette": (lambda p, i: image_of(i).quantize(8).save(p), "png", None, 3, ""),
    "palette GIF": (lambda p, i: image_of(i).quantize(8).save(p), "gif", None, 3, ""),
    "transparent": (
        lambda p, i: Image.fromarray(with_alpha(i)).save(p),
        "png",
        {i: on_ground(i) for i in NUMBERS},
        1,
        r"(?i)alpha|transparen",
    ),
    "half transparent": (
        lambda p, i: Image.fromarray(half_transparent(i)).save(p),
        "png",
        {i: blended(i) for i in NUMBERS},
        2,
        r"(?i)alpha|transparen",
    ),
    "transparent palette": (
        save_palette_transparent,
        "png",
        {i: on_ground(i) for i in NUMBERS},
        1,
        r"(?i)alpha|transparen",
    ),
    "opaque RGBA": (lambda p, i: image_of(i).convert("RGBA").save(p), "png", None, 0, ""),
    "transparent WebP": (
        lambda p, i: Image.fromarray(with_alpha(i)).save(p, lossless=True, exact=True),
        "webp",
        {i: on_ground(i) for i in NUMBERS},
        1,
        r"(?i)alpha|transparen",
    ),
    "grey with alpha": (
        lambda p, i: Image.fromarray(with_alpha(i)).convert("LA").save(p),
        "png",
        {i: as_rgb(np.where((np.arange(16) < 4)[:, None], 255, grey_of(i))) for i in NUMBERS},
        2,
        r"(?i)alpha|transparen",
    ),
    "CMYK": (lambda p, i: image_of(i).convert("CMYK").save(p, quality=100, subsampling=0), "jpg", CMYK, 12, r"CMYK"),
    "CMYK TIFF": (lambda p, i: image_of(i).convert("CMYK").save(p), "tif", CMYK, 12, r"CMYK"),
    "LAB TIFF": (lambda p, i: lab(i).save(p), "tif", None, 12, r"LAB"),
    "YCbCr TIFF": (lambda p, i: image_of(i).convert("YCbCr").save(p), "tif", None, 4, r"YCbCr"),
    "an sRGB profile": (with_profile, "png", None, 2, ""),
    "progressive JPEG": (
        lambda p, i: image_of(i).save(p, quality=100, subsampling=0, progressive=True),
        "jpeg",
        None,
        12,
        "",
    ),
    "BMP": (lambda p, i: image_of(i).save(p), "bmp", None, 0, ""),
    "JFIF ending": (
        lambda p, i: image_of(i).save(p, format="JPEG", quality=100, subsampling=0),
        "jfif",
        None,
        12,
        r"jfif|no image",
    ),
    "PPM": (lambda p, i: image_of(i).save(p), "ppm", None, 0, r"ppm|no image"),
    "JPEG called png": (
        lambda p, i: image_of(i).save(p, format="JPEG", quality=100, subsampling=0),
        "png",
        None,
        12,
        r"(?i)jpeg|ending|not a png",
    ),
    "upper case endings": (lambda p, i: image_of(i).save(p.with_suffix(".PNG")), "png", None, 0, ""),
}
FULL = {
    i: as_rgb(np.interp(g := grey_of(i).astype(float), (g.min(), g.max()), (0, 255)).round().astype(np.uint8))
    for i in NUMBERS
}
for mode, (save, ending, shown, tolerance, cause) in MODES.items():
    case(
        4,
        "array",
        mode,
        pictured,
        save,
        ending,
        FULL if tolerance < 0 else shown,
        abs(tolerance) + 1 if tolerance < 0 else tolerance,
        either=cause,
    )


def animation(path: Path, number: int) -> None:
    frames = [image_of(number), image_of(63), image_of(62)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)


FRAMES = r"(?i)frame|animat|page|several"
for ending in ("gif", "png", "webp", "tif"):
    case(4, "array", f"several frames in .{ending}", pictured, animation, ending, None, 8, either=FRAMES)


def content(data: bytes) -> Callable[[Path], Path]:
    """The fifth picture's file holds something else."""

    def write(folder: Path) -> Path:
        (folder / png(5)).write_bytes(data)
        return folder

    return write


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 16\n%%EndComments\nshowpage\n%%EOF\n"
WRONG = r"(?i)img05"
BROKEN: dict[str, bytes] = {
    "EPS in a .png": EPS,
    "PDF in a .png": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
    "SVG in a .png": b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="16"/>',
    "an empty .png": b"",
    "text in a .png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "half a .png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0 \0\0\0\x10\x08\x02\0\0\0",
}
for what, data in BROKEN.items():
    case(4, "array", what, array_input, pictures=content(data), refused=WRONG)
case(4, "epochs", "EPS in a .png", of_reader, "epochs", content(EPS), refused=WRONG)


# --- what lies beside -------------------------------------------------------------------------------------------------


def beside(*names: str, data: bytes | None = None) -> Callable[[Path], Path]:
    """More files in the folder of images: pictures of the number 63, or `data`."""

    def write(folder: Path) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                image_of(63).save(folder / name, format="PNG")
            else:
                (folder / name).write_bytes(data)
        return folder

    return write


BESIDE: dict[str, Callable[[Path], Path]] = {
    "AppleDouble": beside(*(f"._{png(i)}" for i in NUMBERS), data=APPLE_DOUBLE),
    "hidden pictures": beside(".cover.png", ".thumbs/img01.png"),
    "@eaDir": beside(*(f"@eaDir/{png(i)}/SYNOPHOTO_THUMB_M.jpg" for i in NUMBERS)),
    "$RECYCLE.BIN": beside("$RECYCLE.BIN/S-1-5/$R1.png"),
    "__MACOSX": beside("__MACOSX/._img01.png", data=APPLE_DOUBLE),
    "Thumbs.db and .DS_Store": beside("Thumbs.db", ".DS_Store", "desktop.ini", data=b"x"),
    "a table": beside("images.csv", "README.txt", data=b"a,b\n"),
    "an .heic": beside("img13.heic", data=b"\0\0\0\x18ftypheic"),
    "a sound": beside("img13.wav", data=b"RIFF"),
    "#recycle": beside("#recycle/img01.png"),
    "System Volume Information": beside("System Volume Information/img01.png"),
    "lost+found": beside("lost+found/img01.png"),
}
SKIPPED = r"(?i)heic|order|#recycle|System Volume|lost|count|13|12"
for what, add in BESIDE.items():
    unsure = what in ("an .heic", "#recycle", "System Volume Information", "lost+found")
    case(4, "array", f"beside: {what}", array_input, pictures=add, either=SKIPPED if unsure else "")
    for reader in ("epochs", "raw"):
        case(4, reader, f"beside: {what}", of_reader, reader, add)
case(4, "bids", "beside: AppleDouble", of_reader, "bids", BESIDE["AppleDouble"])
case(4, "bids", "beside: @eaDir", of_reader, "bids", BESIDE["@eaDir"])


def instead(folder: Path) -> Path:
    (folder / png(5)).unlink()
    return beside("img05.heic", data=b"\0\0\0\x18ftypheic")(folder)
