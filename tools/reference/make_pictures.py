"""tests/data/media/more_pictures*: file types beyond those of media.py, and what qwen-vl-utils' to_rgb (Pillow) makes of them.

python3 tools/reference/make_pictures.py tests/data/media      # Pillow 13.0, NumPy; needs Pillow's AVIF and JPEG 2000
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(sys.argv[1])
HEIGHT, WIDTH = 23, 37


def base() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (5 * x + 7 * y) % 256], -1).astype(np.uint8)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.split()[3])
        return white
    return image.convert("RGB")


def pnm(kind: str, head: str, data: bytes) -> bytes:
    return f"{kind}\n# a comment\n{head}\n".encode() + data


def bmp_565(rgb: np.ndarray) -> bytes:
    """16 bits a pixel, masks in the header: Pillow does not write them."""
    word = (rgb[..., 0].astype(np.uint16) >> 3 << 11) | (rgb[..., 1].astype(np.uint16) >> 2 << 5) | (rgb[..., 2] >> 3)
    rows = np.zeros((HEIGHT, (WIDTH * 2 + 3) // 4 * 2), np.uint16)
    rows[:, :WIDTH] = word[::-1]
    pixels = rows.astype("<u2").tobytes()
    head = np.array([40, WIDTH, HEIGHT], "<i4").tobytes() + np.array([1, 16], "<u2").tobytes()
    head += np.array([3, len(pixels), 2835, 2835, 0, 0, 0xF800, 0x07E0, 0x001F], "<u4").tobytes()
    return b"BM" + np.array([14 + len(head) + len(pixels), 0, 14 + len(head)], "<u4").tobytes() + head + pixels


def bmp_v4(rgba: np.ndarray) -> bytes:
    """32 bits a pixel with a mask for transparency."""
    pixels = np.ascontiguousarray(rgba[::-1][..., [2, 1, 0, 3]]).tobytes()
    head = np.array([108, WIDTH, HEIGHT], "<i4").tobytes() + np.array([1, 32], "<u2").tobytes()
    head += np.array([3, len(pixels), 2835, 2835, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000], "<u4").tobytes()
    head += b"BGRs" + bytes(108 - len(head) - 4)
    return b"BM" + np.array([14 + len(head) + len(pixels), 0, 14 + len(head)], "<u4").tobytes() + head + pixels


def main() -> None:
    rgb = base()
    image = Image.fromarray(rgb)
    grey = Image.fromarray(rgb[..., 2])
    alpha = Image.fromarray((np.arange(HEIGHT * WIDTH) * 7 % 256).astype(np.uint8).reshape(HEIGHT, WIDTH))
    rgba = image.copy()
    rgba.putalpha(alpha)
    palette = image.quantize(16, dither=Image.Dither.NONE)
    moved = Image.fromarray(255 - rgb)
    files = {}

    def save(name: str, picture: Image.Image, **options) -> None:
        picture.save(OUT / name, **options)
        files[name] = (OUT / name).read_bytes()

    def write(name: str, data: bytes) -> None:
        (OUT / name).write_bytes(data)
        files[name] = data

    save("rgb.bmp", image)
    save("grey.bmp", grey)
    save("palette.bmp", palette)
    save("one_bit.bmp", grey.convert("1"))
    save("alpha.bmp", rgba)
    write("alpha_v4.bmp", bmp_v4(np.asarray(rgba)))
    write("rgb565.bmp", bmp_565(rgb))
    save("palette.gif", palette)
    save("transparent.gif", palette, transparency=3)
    save("interlaced.gif", palette, interlace=1)
    save("grey.gif", grey)
    save("animated.gif", palette, save_all=True, append_images=[moved.quantize(16)], duration=100)
    # A first frame that does not fill its canvas.
    data = bytearray(files["transparent.gif"])
    data[6:10] = np.array([WIDTH + 4, HEIGHT + 3], "<u2").tobytes()
    at = data.index(b",\0\0\0\0" + np.array([WIDTH, HEIGHT], "<u2").tobytes())
    data[at + 1:at + 5] = np.array([4, 3], "<u2").tobytes()
    write("offset.gif", bytes(data))
    save("rgb.tiff", image)
    save("lzw.tiff", image, compression="tiff_lzw")
    save("deflate.tiff", image, compression="tiff_adobe_deflate")
    save("packbits_grey.tiff", grey, compression="packbits")
    save("palette.tiff", palette)
    save("one_bit.tiff", grey.convert("1"))
    save("alpha.tiff", rgba)
    write("rgb48.ppm", pnm("P6", f"{WIDTH} {HEIGHT}\n65535", (rgb.astype(">u2") * 257).tobytes()))
    save("rgb.ppm", image)
    save("grey.pgm", grey)
    save("one_bit.pbm", grey.convert("1"))
    write("text.ppm", pnm("P3", f"{WIDTH} {HEIGHT}\n255", " ".join(map(str, rgb.ravel())).encode()))
    save("rgb.tga", image)
    save("alpha.tga", rgba, compression="tga_rle")
    save("lossless.jp2", image)
    save("animated.png", image, save_all=True, append_images=[moved], duration=100)

    index = []
    arrays = []
    for name in files:
        picture = Image.open(io.BytesIO(files[name]))
        picture.seek(0)
        array = np.asarray(to_rgb(picture))
        index.append(f"{name} {array.shape[0]} {array.shape[1]}")
        arrays.append(array.ravel())
    # Of these the pixels themselves: YUV is rounded, and libavif smooths chroma in a way of its own.
    for name, options in (("444.avif", {"quality": 100, "subsampling": "4:4:4"}), ("420.avif", {"quality": 90})):
        image.save(OUT / name, **options)
        array = np.asarray(Image.open(OUT / name).convert("RGB"))
        index.append(f"{name} {array.shape[0]} {array.shape[1]}")
        arrays.append(array.ravel())
    (OUT / "more_pictures.txt").write_text("\n".join(index) + "\n")
    np.save(OUT / "more_pictures_rgb.npy", np.concatenate(arrays))


if __name__ == "__main__":
    main()
