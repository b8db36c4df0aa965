"""Grids, points and labelled pictures."""

import numpy as np
from PIL import Image

import pictures


def test_grid_shows_every_image_enlarged():
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    picture = np.asarray(pictures.draw_grid(images * 30))
    assert picture.shape == (3 * 58 + 2, 3 * 58 + 2)  # 8 pixels 7 times, and a gap of 2
    for i in range(7):
        top, left = 2 + i // 3 * 58, 2 + i % 3 * 58
        assert (picture[top : top + 56, left : left + 56] == 30 * i).all()
    colour = pictures.draw_grid(np.zeros((4, 32, 32, 3), np.uint8))
    assert colour.mode == "RGB"
    assert colour.size == (2 * 66 + 2, 2 * 66 + 2)


def test_points_are_drawn_where_they_are():
    picture = np.asarray(
        pictures.draw_points(np.array([[1.0, 0.5]]), np.array([[-1.0, 0.0]]))
    ).astype(int)
    blue, grey = (0, 90, 200), (190, 190, 190)
    rows, columns = np.nonzero((picture == blue).all(-1))
    assert abs(columns.mean() - (1 / 3 + 0.5) * 512) < 2
    assert abs(rows.mean() - (-0.5 / 3 + 0.5) * 512) < 2
    rows, columns = np.nonzero((picture == grey).all(-1))
    assert abs(columns.mean() - (-1 / 3 + 0.5) * 512) < 2
    pictures.draw_points(np.array([[np.nan, np.inf]]), np.zeros((1, 2)))


def test_pictures_can_be_opened(tmp_path):
    path = tmp_path / "x.png"
    pictures.draw_grid(np.zeros((4, 8, 8, 1), np.uint8)).save(path)
    with Image.open(path) as picture:
        assert picture.size == (118, 118)


def test_a_tables_tiles_are_the_images_pixel_by_pixel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)
    for words in (
        {},
        {"title": "of two rows", "rows": ["one", "two"], "columns": ["a", "b", "c"]},
        {"captions": [["1", "2", "3"], ["4", "5", "a long one"]], "breaks": [1]},
    ):
        pixels = np.asarray(pictures.table(images, **words))
        for image in images.reshape(-1, 8, 8, 3):
            tile = image.repeat(7, axis=0).repeat(7, axis=1)
            windows = np.lib.stride_tricks.sliding_window_view(pixels, tile.shape)[:, :, 0]
            corners = np.argwhere((windows[:, :, 0, 0] == tile[0, 0]).all(axis=-1))
            assert any((windows[r, c] == tile).all() for r, c in corners), words


def test_what_is_written_is_there():
    images = np.full((1, 1, 8, 8, 1), 255, np.uint8)
    bare = np.asarray(pictures.table(images))
    assert (bare == 255).all()
    for words in ({"title": "x"}, {"rows": ["x"]}, {"columns": ["x"]}, {"captions": [["x"]]}):
        picture = np.asarray(pictures.table(images, **words))
        assert (picture.mean(axis=-1) < 64).any(), words
        assert picture.shape > bare.shape


def test_a_difference_is_blue_below_and_vermilion_above():
    ours = np.array([0, 100, 200, 228], np.uint8).reshape(1, 2, 2, 1)
    theirs = np.array([255, 100, 136, 100], np.uint8).reshape(1, 2, 2, 1)
    found = pictures.difference(ours, theirs).reshape(4, 3)
    half = np.round(255 + 0.5 * (np.array(pictures.VERMILION) - 255))
    assert [tuple(x) for x in found] == [
        pictures.BLUE,
        (255, 255, 255),
        tuple(half),
        pictures.VERMILION,
    ]


def test_frames(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("black", "white", "blue")]
    pictures.save_gif(frames, tmp_path / "x.gif", 50, last=100)
    with Image.open(tmp_path / "x.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (3, (20, 10), 0)
        durations = []
        for i, colour in enumerate([(0, 0, 0), (255, 255, 255), (0, 0, 255)]):
            picture.seek(i)
            durations.append(picture.info["duration"])
            assert picture.convert("RGB").getpixel((5, 5)) == colour
    assert durations == [50, 50, 150]
    assert pictures.side_by_side(frames).size == (3 * 20 + 2 * pictures.GAP, 10)
    labelled = np.asarray(pictures.captioned(frames[2], "step 1,000"))
    assert (labelled[-10:, :20] == [0, 0, 255]).all()
    assert (labelled[:-10].mean(axis=-1) < 64).any()
