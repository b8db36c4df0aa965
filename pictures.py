"""Pictures: a grid of samples, points, a labelled table, frames as a GIF or side by side.

Text is black on white; what has a sign is blue below 0 and vermilion above, which people who do not
tell red from green tell apart, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 56  # pixels of an image, at least
GAP = 4
TEXT = 11  # height of letters
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)  # of Okabe and Ito's palette


def draw(fake: np.ndarray, real: np.ndarray, columns: int | None = None) -> Image.Image:
    """A picture of generated images, or of points beside some real ones."""
    return draw_grid(fake, columns) if fake.ndim == 4 else draw_points(fake, real[:1_000])


def draw_grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images uint8 [N, H, W, 1 or 3] in a grid, square or of so many columns; small ones enlarged.

    Pixel by pixel, that is: nothing is smoothed.
    """
    num, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    scale = max(1, round(TILE / height))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = 2
    grid = np.full(
        (
            math.ceil(num / columns) * (height * scale + gap) + gap,
            columns * (width * scale + gap) + gap,
            channels,
        ),
        64,
        np.uint8,
    )
    for i, image in enumerate(images):
        top = gap + i // columns * (height * scale + gap)
        left = gap + i % columns * (width * scale + gap)
        grid[top : top + height * scale, left : left + width * scale] = image
    return Image.fromarray(grid.squeeze())


def draw_points(fake: np.ndarray, real: np.ndarray) -> Image.Image:
    """Points float [N, 2] in [-1.5, 1.5] as a scatter plot: real ones grey, fake ones blue."""
    size = 512
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    for points, colour in ((real, (190, 190, 190)), (fake, (0, 90, 200))):
        pixels = np.nan_to_num((points * [1, -1] / 3 + 0.5) * size, nan=-9, posinf=-9, neginf=-9)
        for x, y in np.clip(pixels, -9, size + 9):
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    return picture


def table(
    images: np.ndarray,
    title: str = "",
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    breaks: Sequence[int] = (),
) -> Image.Image:
    """Images in rows and columns, with what each is. Small ones are enlarged, pixel by pixel.

    Args:
      images: uint8 [R, C, H, W, 1 or 3].
      title: above all.
      rows: R texts at the left, or none.
      columns: C texts at the top, or none.
      captions: [R][C] texts below images, or none.
      breaks: columns before which there is a wider gap.
    """
    num_rows, num_columns, height, width, _ = images.shape
    scale = max(1, round(TILE / height))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    images = in_colour(images)
    font = ImageFont.load_default(TEXT)
    line = TEXT + GAP

    def longest(texts: Sequence[str]) -> int:
        return max((int(font.getlength(text)) + 1 for text in texts), default=0)

    across = max(width * scale, longest(columns), *map(longest, captions), 0) + GAP
    down = height * scale + GAP + (line if captions else 0)
    left = GAP + (longest(rows) + GAP if rows else 0)
    top = GAP + line * (bool(title) + bool(columns))
    lefts = [left + across * c + 4 * GAP * sum(b <= c for b in breaks) for c in range(num_columns)]
    size = (max(lefts[-1] + across, longest([title]) + 2 * GAP), top + down * num_rows)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        pen.text((x, y), text, "black", font, anchor)

    write(GAP, GAP, title, "la")
    for r in range(num_rows):
        y = top + down * r
        if rows:
            write(left - GAP, y + height * scale / 2, rows[r], "rm")
        for c, x in enumerate(lefts):
            middle = x + (across - GAP) / 2
            picture.paste(Image.fromarray(images[r, c]), (int(middle - width * scale / 2), y))
            if captions:
                write(middle, y + height * scale + GAP / 2, captions[r][c], "ma")
            if columns and r == 0:
                write(middle, top - GAP / 2, columns[c], "md")
    return picture


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """The picture below a line of text."""
    font = ImageFont.load_default(TEXT)
    width = max(picture.width, int(font.getlength(text)) + 2 * GAP + 1)
    whole = Image.new("RGB", (width, picture.height + TEXT + 2 * GAP), "white")
    ImageDraw.Draw(whole).text((GAP, GAP), text, "black", font)
    whole.paste(picture, (0, TEXT + 2 * GAP))
    return whole


def side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames of one height from left to right."""
    width = sum(frame.width + GAP for frame in frames) - GAP
    strip = Image.new("RGB", (width, max(frame.height for frame in frames)), "white")
    left = 0
    for frame in frames:
        strip.paste(frame, (left, 0))
        left += frame.width + GAP
    return strip


def save_gif(frames: Sequence[Image.Image], file: Path, milliseconds: int, last: int = 0) -> None:
    """Frames of one size one after the other, again and again, the last one `last` ms longer."""
    durations = [milliseconds] * (len(frames) - 1) + [milliseconds + last]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def in_colour(images: np.ndarray) -> np.ndarray:
    """Images [..., 1 or 3] with three channels."""
    return images.repeat(3, axis=-1) if images.shape[-1] == 1 else images


def difference(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [..., H, W, C] less another, averaged over channels, as colours [..., H, W, 3].

    White is 0; from 128 on, of 255, a colour is full.
    """
    signed = (images.astype(np.float32) - others).mean(axis=-1, keepdims=True)
    strength = np.clip(np.abs(signed) / 128, 0, 1)
    colours = np.where(signed < 0, np.array(BLUE), np.array(VERMILION))
    return np.round(255 + strength * (colours - 255)).astype(np.uint8)
