"""Synthetic scenes: what happens in a demo video, and how it looks.

A scene is a textured, slowly drifting background with one to four small objects. Every object is there for a few
temporal slices only (a slice is a pair of frames, the temporal patch of Qwen2.5-VL) and either stays still or moves
along a line. Colours and shapes are unique inside a scene, so that every question has exactly one answer.

Two properties of the light make the absolute place and time of a cell visible in its pixels, as they are in most real
footage: the lamp stands on the left (brightness falls from left to right, and the tint changes from top to bottom), and
the light turns from cool to warm while the video goes on. The tower has only relative positions inside one slice, so it
could not know either of them from the rotary angles alone.
"""
from dataclasses import dataclass, field

import numpy as np

CELL = 28                    # pixels of one merged visual token: patch 14, merge 2
COLOURS = {"red": (218, 38, 38), "green": (34, 176, 58), "blue": (44, 74, 232),
           "yellow": (238, 216, 44), "purple": (176, 52, 206), "white": (246, 246, 246)}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
MOTIONS = ("still", "left", "right", "up", "down")
TIMES = ("early", "middle", "late")
COLOUR_NAMES = tuple(COLOURS)
RADII = (10, 11, 12, 13)     # object radius in pixels
JITTER = 1.5                 # how far an object's centre may be off the middle of a cell, in pixels
MAX_OBJECTS = 5


@dataclass
class Object:
    """One object: where its centre is in every frame of its life, which starts at slice `start`."""
    colour: str
    shape: str
    motion: str
    radius: int
    start: int                                   # first slice
    slices: int                                  # number of slices it is visible
    path: np.ndarray = None                      # [2 * slices, 2] centre x, y in pixels, one row per frame
    rank: int = 0                                # order of appearance, 0 = first

    @property
    def name(self):
        return f"{self.colour} {self.shape}"


@dataclass
class Scene:
    slices: int
    grid: int                                    # cells per side: 4 -> 112 px, 6 -> 168 px
    objects: list = field(default_factory=list)  # in order of appearance

    def time_of(self, obj):
        return TIMES[third(obj.start, self.slices)]

    def place_of(self, obj):
        """Quadrant in which the object appears (its first frame)."""
        half = self.grid * CELL / 2
        x, y = obj.path[0]
        return ("top" if y < half else "bottom") + (" left" if x < half else " right")


def third(index, slices):
    """Which third of the video slice `index` belongs to (by its centre)."""
    return int(3 * (index + 0.5) / slices)


def _path(rng, motion, slices, grid):
    """Centre per frame. An object sits near the middle of a cell; a moving one crosses one cell per slice, 8 px of the
    way between the two frames of the slice. It starts in the half it moves away from, so that every one of its cells
    tells its first quadrant. None if it has no room to move that long."""
    jitter = rng.uniform(-JITTER, JITTER, 2)
    cell = rng.integers(0, grid, 2).astype(float)
    path = np.empty((slices, 2, 2))
    axis = 0 if motion in ("left", "right") else 1
    if motion != "still":
        last = min(grid // 2 - 1, grid - slices)
        if last < 0:
            return None
        cell[axis] = rng.integers(0, last + 1)
    path[:] = (cell + 0.5) * CELL
    if motion != "still":
        path[:, :, axis] += CELL * np.arange(slices)[:, None] + np.array([-4.0, 4.0])
        if motion in ("left", "up"):
            path[:, :, axis] = grid * CELL - path[:, :, axis]
    return (path + jitter).reshape(2 * slices, 2)


def sample_scene(rng, slices, grid, max_objects=None):
    """Draw a scene. Each object's life lies inside one third of the video; starts differ; no two objects touch."""
    most = max_objects or (2 if slices < 6 else 3 if slices < 10 else 4)
    while True:
        count = int(rng.integers(1, most + 1))
        colours = rng.permutation(len(COLOUR_NAMES))[:count]
        shapes = rng.permutation(len(SHAPES))[:count]
        gap = 1 if slices < 12 else 2
        objects, used = [], []
        for k in range(count):
            for _ in range(30):
                motion = "still" if rng.random() < 0.45 else MOTIONS[int(rng.integers(1, 5))]
                longest = max(1, min(8 if motion == "still" else 4, slices // 3))
                life = int(rng.integers(1 if longest < 3 else 2, longest + 1))
                start = int(rng.integers(0, slices - life + 1))
                if third(start, slices) != third(start + life - 1, slices) or any(abs(start - s) < gap for s in used):
                    continue
                obj = Object(COLOUR_NAMES[colours[k]], SHAPES[shapes[k]], motion, int(rng.choice(RADII)), start, life)
                obj.path = _path(rng, motion, life, grid)
                if obj.path is None or any(_touch(obj, other) for other in objects):
                    continue
                objects.append(obj)
                used.append(start)
                break
        if len(objects) == count:
            objects.sort(key=lambda o: o.start)
            for rank, obj in enumerate(objects):
                obj.rank = rank
            return Scene(slices, grid, objects)


def _touch(a, b):
    """Do two objects come close while both are visible?"""
    first, last = max(a.start, b.start), min(a.start + a.slices, b.start + b.slices)
    if first >= last:
        return False
    pa = a.path[2 * (first - a.start):2 * (last - a.start)]
    pb = b.path[2 * (first - b.start):2 * (last - b.start)]
    return bool((np.abs(pa - pb).max(axis=1) < CELL + 8).any())


def _shape_mask(shape, radius):
    """Antialiased coverage of a shape on a square of side 2*radius+3, supersampled 4x."""
    side, over = 2 * radius + 3, 4
    c = (np.arange(side * over) + 0.5) / over - side / 2
    x, y = np.meshgrid(c, c)
    r = radius
    if shape == "circle":
        m = x * x + y * y <= r * r
    elif shape == "square":
        m = (abs(x) <= 0.86 * r) & (abs(y) <= 0.86 * r)
    elif shape == "triangle":
        m = (y <= 0.85 * r) & (y >= -r + 1.85 * abs(x) * r / (1.0 * r))
    elif shape == "cross":
        m = ((abs(x) <= 0.3 * r) & (abs(y) <= r)) | ((abs(y) <= 0.3 * r) & (abs(x) <= r))
    else:
        d = x * x + y * y
        m = (d <= r * r) & (d >= (0.52 * r) ** 2)
    return m.reshape(side, over, side, over).mean(axis=(1, 3)).astype(np.float32)


class Renderer:
    """Draws scenes as uint8 frames. Textures, noise and shape masks are made once and reused with random offsets."""

    def __init__(self, seed=7, textures=48, side=448):
        rng = np.random.default_rng(seed)
        self.side = side
        self.textures = np.stack([self._texture(rng, side) for _ in range(textures)])
        self.noise = np.clip(rng.normal(0, 1, (512, 512, 3)) * 24, -127, 127).astype(np.int8)
        self.masks = {(s, r): _shape_mask(s, r) for s in SHAPES for r in RADII}

    @staticmethod
    def _texture(rng, side):
        """A busy single-channel picture that wraps around, about +-40 levels: blobs of three sizes and a pattern."""
        out = np.zeros((side, side), np.float32)
        for cells, amp in ((16, 14), (32, 12), (64, 9)):
            grid = rng.normal(0, 1, (cells, cells)).astype(np.float32)
            step = side // cells
            up = np.kron(grid, np.ones((step, step), np.float32))
            for axis in (0, 1):                   # box blur by one cell: piecewise linear blobs
                c = np.cumsum(np.concatenate([up, up], axis), axis)
                up = (np.take(c, range(step, side + step), axis) - np.take(c, range(side), axis)) / step
            out += amp * up
        y, x = np.mgrid[0:side, 0:side]
        kind, period = rng.integers(0, 4), side / rng.integers(16, 40)
        fx, fy = ((1, 0), (0, 1), (1, 1), (1, -1))[rng.integers(0, 4)]
        wave = np.sin(2 * np.pi * (fx * x + fy * y) / period)
        if kind == 1:
            wave = np.sign(wave)
        elif kind == 2:
            wave = wave * np.sin(2 * np.pi * (fy * x - fx * y) / period)
        elif kind == 3:
            wave = 0 * wave
        return np.clip(out + 10 * wave, -52, 52).astype(np.int16)

    def background(self, rng, slices, size):
        """[slices, size, size, 3] int16: a drifting texture under the light described at the top."""
        picture = self.textures[rng.integers(len(self.textures))]
        ox, oy = rng.integers(0, self.side, 2)
        drift = rng.integers(-1, 2, 2) * rng.choice((0.0, 0.25, 0.5))
        tile = np.pad(picture, ((0, size), (0, size)), mode="wrap")
        out = np.empty((slices, size, size, 3), np.int16)
        flip = rng.random() < 0.5
        ramp = np.linspace(1, -1, size, dtype=np.float32)
        light = np.zeros((size, size, 3), np.float32)
        light += (rng.uniform(18, 28) * ramp)[None, :, None]
        light[..., 1] += (rng.uniform(11, 17) * ramp)[:, None]
        light[..., 0] -= (rng.uniform(4, 8) * ramp)[:, None]
        light[..., 2] -= (rng.uniform(4, 8) * ramp)[:, None]
        light += rng.uniform(100, 132)
        light = light.astype(np.int16)
        warm = rng.uniform(20, 28)
        for t in range(slices):
            y, x = (int(oy + drift[1] * t) % self.side, int(ox + drift[0] * t) % self.side)
            crop = tile[y:y + size, x:x + size]
            p = 2 * (t + 0.5) / slices - 1
            tint = np.array([warm * p, 0.15 * warm * p, -warm * p]).round().astype(np.int16)
            np.add(light + tint, (crop.T if flip else crop)[:, :, None], out=out[t])
        return out

    def render(self, rng, scene, noise=None):
        """uint8 frames [2 * slices, size, size, 3] and the share of every cell covered by each object.

        `noise` is the standard deviation of the sensor noise in levels (drawn if not given).
        """
        size, n = scene.grid * CELL, scene.slices
        back = self.background(rng, n, size)
        frames = np.repeat(back, 2, axis=0)
        sigma = rng.uniform(0.5, 5.0) if noise is None else noise
        if sigma > 0:
            scale = np.int16(round(sigma * 256 / 24))
            for f in range(2 * n):
                oy, ox = rng.integers(0, 512 - size, 2)
                frames[f] += (self.noise[oy:oy + size, ox:ox + size].astype(np.int16) * scale) >> 8
        cover = np.zeros((len(scene.objects), n, scene.grid, scene.grid), np.float32)
        for k, obj in enumerate(scene.objects):
            mask = self.masks[obj.shape, obj.radius]
            colour = np.array(COLOURS[obj.colour], np.float32) + rng.uniform(-14, 14, 3)
            for f, (cx, cy) in enumerate(obj.path):
                self._paste(frames[2 * obj.start + f], cover[k, obj.start + f // 2], mask, colour, cx, cy)
        np.clip(frames, 0, 255, out=frames)
        return frames.astype(np.uint8), cover

    @staticmethod
    def _paste(frame, cover, mask, colour, cx, cy):
        size, side = frame.shape[0], mask.shape[0]
        x0, y0 = int(round(cx - side / 2)), int(round(cy - side / 2))
        xa, ya, xb, yb = max(0, x0), max(0, y0), min(size, x0 + side), min(size, y0 + side)
        m = mask[ya - y0:yb - y0, xa - x0:xb - x0, None]
        part = frame[ya:yb, xa:xb]
        part[...] = (part + m * (colour - part)).astype(np.int16)
        area = mask.sum()
        for cyi in range(ya // CELL, (yb - 1) // CELL + 1):
            for cxi in range(xa // CELL, (xb - 1) // CELL + 1):
                ys, ye = max(ya, cyi * CELL), min(yb, (cyi + 1) * CELL)
                xs, xe = max(xa, cxi * CELL), min(xb, (cxi + 1) * CELL)
                cover[cyi, cxi] += mask[ys - y0:ye - y0, xs - x0:xe - x0].sum() / area / 2
