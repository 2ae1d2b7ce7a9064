"""Synthetic chest films with lung and infection masks, any number from one seed.

A film is built as an attenuation map (soft tissue, air, bone, opacities) in coordinates that rotate, scale and bend
from patient to patient, then exposed: saturating response, scatter, grain. The patient faces the viewer, so the heart
lies on the image's right. The proportions were drawn by eye; nothing here comes from a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from covseg_ray.errors import UsageError

Label = Literal["COVID-19", "Non-COVID", "Normal"]
Plane = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]

_CYCLE: tuple[Label, ...] = ("COVID-19", "Non-COVID", "COVID-19", "Normal")
_APEX, _ANGLE = -0.74, 0.56  # height of the lungs' tips and of the costophrenic angles
_SMALLEST = 32


@dataclass(frozen=True, slots=True)
class Phantom:
    """One film: `image` uint8 [S, S], `infection` and `lung` uint8 [S, S] of 0 and 1, infection always inside the lung.

    `infection` is empty unless `label` is COVID-19, and never empty if it is.
    """

    image: NDArray[np.uint8]
    infection: NDArray[np.uint8]
    lung: NDArray[np.uint8]
    label: Label


@dataclass(frozen=True, slots=True)
class _Body:
    """One patient: coordinates x and y (-1 to 1, image left to right and top to bottom) and depths inside the organs.

    A depth is positive inside, negative outside, in units of half the film's width.
    """

    x: Plane
    y: Plane
    reach: Plane  # |x|, as both sides are built alike
    lung: Plane
    cage: Plane
    trunk: Plane


def make_phantom(seed: int, index: int, size: int = 256) -> Phantom:
    """Film number `index` of the series `seed` (both >= 0); the same arguments give the same pixels.

    Half of a series is COVID-19 and a quarter each Non-COVID and Normal, by `index`. COVID-19 has patchy, mostly
    peripheral and basal opacities over 8 to 85 % of the lungs; Non-COVID has denser vessels and a softer exposure than
    Normal, and no mask. Raises `UsageError` for a size under 32.
    """
    label = _CYCLE[index % len(_CYCLE)]
    if size < _SMALLEST:
        raise UsageError(f"a phantom of {size} pixels shows nothing: ask for {_SMALLEST} or more")
    rng = np.random.default_rng((seed, index))
    body = _patient(rng, size)
    lung_SS = body.lung > 0
    attenuation = _soft_tissue(rng, body) + _bones(rng, body)
    attenuation += _vessels(rng, body, strength=0.26 if label == "Non-COVID" else 0.16)
    infection_SS = np.zeros_like(lung_SS)
    if label == "COVID-19":
        opacity, infection_SS = _opacities(rng, body)
        attenuation += opacity
    image_SS = _exposed(rng, attenuation, softness=1.15 if label == "Non-COVID" else 1.0)
    return Phantom(image_SS, infection_SS.astype(np.uint8), lung_SS.astype(np.uint8), label)


def _patient(rng: np.random.Generator, size: int) -> _Body:
    axis = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    column, row = axis[None, :] - rng.uniform(-0.05, 0.05), axis[:, None] - rng.uniform(-0.06, 0.06)
    angle, wide, tall = rng.normal(0, 0.035), rng.uniform(1.0, 1.25), rng.uniform(1.02, 1.25)
    bend = 0.035
    x = (column * np.cos(angle) + row * np.sin(angle)) / wide + bend * _clouds(rng, size, 3)
    y = (row * np.cos(angle) - column * np.sin(angle)) / tall + bend * _clouds(rng, size, 3)
    x, y = x.astype(np.float32), y.astype(np.float32)
    reach = np.abs(x)
    down = np.clip((y - _APEX) / (_ANGLE - _APEX), 0, 1)  # 0 at the apex, 1 at the costophrenic angle
    wall = 0.29 + rng.uniform(0.42, 0.5) * np.sqrt(down)
    lung = np.minimum.reduce([wall - reach, reach - _mediastinal_edge(rng, x, down), _diaphragm(rng, x, reach) - y])
    lung = np.minimum(lung, y - _APEX)
    cage = np.minimum(wall + 0.035 - reach, np.minimum(y + 0.8, 0.75 - y))
    return _Body(x, y, reach, lung, cage, _trunk(rng, reach, y))


def _mediastinal_edge(rng: np.random.Generator, x: Plane, down: Plane) -> Plane:
    """Inner border of the lungs by height; on the image's right the aortic knob and the heart push it outwards."""
    edge = 0.11 + 0.18 * np.exp(-down / 0.06) + 0.05 * down**2
    heart = rng.uniform(0.24, 0.38) * _step((down - 0.62) / 0.11)
    knob = 0.06 * np.exp(-(((down - 0.3) / 0.06) ** 2))
    right_heart = 0.06 * np.exp(-(((down - 0.75) / 0.15) ** 2))
    return np.asarray(edge + np.where(x > 0, heart + knob, right_heart), np.float32)


def _diaphragm(rng: np.random.Generator, x: Plane, reach: Plane) -> Plane:
    """Height of the dome under each lung; the liver lifts the one on the image's left."""
    dome = rng.uniform(0.15, 0.27) + np.where(x < 0, 0.05, 0.0)
    return np.asarray(_ANGLE - dome * (1 - ((reach - 0.3) / 0.48) ** 2), np.float32)


def _trunk(rng: np.random.Generator, reach: Plane, y: Plane) -> Plane:
    shoulders = _step((y + rng.uniform(0.74, 0.82) - 0.12 * reach) / 0.035)
    girth = rng.uniform(0.9, 1.02) - 0.06 * np.exp(-(((y - 0.1) / 0.35) ** 2))
    return np.asarray(0.19 + (girth - 0.19) * shoulders - reach, np.float32)


def _soft_tissue(rng: np.random.Generator, body: _Body) -> Plane:
    thickness = _step(body.trunk / 0.018) * (0.42 + 0.32 * _step((body.trunk - 0.2) / 0.25))
    lungs = _step(body.lung / 0.012)
    air = lungs * (rng.uniform(0.42, 0.52) - 0.05 * body.y)
    belly = 0.3 * _step((body.y - 0.34) / 0.14) * _step(body.trunk / 0.05)
    column = _band(body.reach / 0.13)
    windpipe = _band((body.x - 0.01) / 0.035) * _step((-0.28 - body.y) / 0.04)
    heart_depth = 1 - np.hypot((body.x - 0.14 - 0.25 * (body.y - 0.2)) / 0.36, (body.y - 0.22) / 0.36)
    middle = 0.3 * column + 0.22 * _step(heart_depth / 0.1) * (1 - lungs) - 0.12 * windpipe
    muscle = 0.06 * _clouds(rng, len(body.x), 6) * (1 - lungs)
    return np.asarray(thickness * (1 + muscle) + belly + middle * _step(body.trunk / 0.02) - air, np.float32)


def _bones(rng: np.random.Generator, body: _Body) -> Plane:
    """Ribs (behind: arches; in front: oblique and fainter), clavicles, vertebrae and the heads of the arm bones."""
    pitch, phase = rng.uniform(0.13, 0.155), rng.uniform(0, 1)
    inside = _step(body.cage / 0.02) * _step((0.5 - body.y) / 0.12) * _step((body.reach - 0.08) / 0.03)
    behind = body.y - 1.1 * (body.reach - 0.24) ** 2
    front = body.y + 0.45 * body.reach - 0.3 * body.reach**2
    ribs = 0.13 * _bars(behind / pitch + phase, 0.23) * inside
    ribs += 0.07 * _bars(front / (1.15 * pitch) + phase, 0.25) * inside * _step((body.reach - 0.36) / 0.06)
    collar = body.y + 0.56 + 0.3 * body.reach - 0.07 * np.sin(6.5 * body.reach)
    clavicles = 0.26 * _band(collar / 0.034) * _step((body.reach - 0.08) / 0.015) * _step((0.8 - body.reach) / 0.02)
    vertebrae = _band(body.reach / 0.075) * (0.07 + 0.06 * _bars(body.y / 0.105, 0.33))
    arms = 0.2 * _step((0.13 - np.hypot(body.reach - 0.96, body.y + 0.52)) / 0.02)
    blade = 0.1 * _band((body.reach - 0.72 - 0.2 * body.y) / 0.02) * _band((body.y + 0.32) / 0.28)
    return np.asarray((ribs + clavicles + vertebrae + arms + blade) * _step(body.trunk / 0.02), np.float32)


def _vessels(rng: np.random.Generator, body: _Body, strength: float) -> Plane:
    """Hila, and branching that thins out from them: the ridges of smooth noise."""
    size = len(body.x)
    distance = np.hypot(body.reach - 0.19, (body.y + 0.02) / 1.5)
    ridges = sum(np.exp(-((_clouds(rng, size, cells) / 0.22) ** 2)) for cells in (14, 26))
    branches = strength * ridges * np.exp(-distance / 0.26)
    hila = strength * np.exp(-((distance / 0.11) ** 2))
    return np.asarray((branches + hila) * _step(body.lung / 0.03), np.float32)


def _opacities(rng: np.random.Generator, body: _Body) -> tuple[Plane, NDArray[np.bool_]]:
    """Attenuation of the infection, soft at its borders, and its mask: the part of the lungs where it is strongest."""
    size, lung = len(body.x), body.lung > 0
    likely = 0.7 * body.reach + 0.6 * body.y + rng.uniform(-0.35, 0.35) * np.sign(body.x)
    field = likely + 0.34 * _clouds(rng, size, 5) + 0.16 * _clouds(rng, size, 11) + 0.05 * _clouds(rng, size, 28)
    share = rng.uniform(0.08, 0.85)
    border = np.quantile(field[lung], 1 - share)
    haze = _step((field - border) / 0.09) * _step(body.lung / 0.012)
    density = rng.uniform(0.26, 0.44) * (1 + 0.22 * _clouds(rng, size, 20))
    return np.asarray(haze * density, np.float32), lung & (field > border)


def _exposed(rng: np.random.Generator, attenuation: Plane, softness: float) -> NDArray[np.uint8]:
    """Attenuation to grey values: response curve, scatter, grain, and a side marker now and then."""
    size = len(attenuation)
    contrast, brightness = rng.uniform(1.0, 1.7) / softness, rng.uniform(200, 235)
    film = brightness * (1 - np.exp(-contrast * np.maximum(attenuation, 0))) / (1 - np.exp(-contrast * 1.35))
    film += rng.uniform(4, 22)
    picture = Image.fromarray(film.clip(0, 255).astype(np.uint8))
    scatter = np.asarray(picture.filter(ImageFilter.BoxBlur(size / 12)), np.float32)
    sharp = np.asarray(picture.filter(ImageFilter.GaussianBlur(size / 400)), np.float32)
    grain = rng.uniform(1.5, 3.5) * rng.standard_normal((size, size), np.float32)
    exposed_SS: NDArray[np.uint8] = (0.86 * sharp + 0.14 * scatter + grain).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _mark_side(exposed_SS)
    return exposed_SS


def _mark_side(film_SS: NDArray[np.uint8]) -> None:
    """The lead letter L at the patient's left, which is the image's right."""
    unit = len(film_SS) // 32
    film_SS[unit : 3 * unit, -3 * unit : -3 * unit + max(1, unit // 3)] = 250
    film_SS[3 * unit - max(1, unit // 3) : 3 * unit, -3 * unit : -2 * unit] = 250


def _step(depth: Reals) -> Plane:
    """0 outside, 1 inside, 1/2 at depth 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(depth), np.float32)


def _band(offset: Reals) -> Plane:
    """1 on a line, falling off where |offset| passes 1."""
    return np.asarray(np.exp(-np.square(np.square(offset))), np.float32)


def _bars(phase: Reals, half_width: float) -> Plane:
    """A band at every whole number; `half_width` is a share of the distance between two."""
    return _band((phase - np.round(phase)) / half_width)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Smooth noise of about unit variance with `cells` cells across the film."""
    coarse = rng.normal(0, 1.3, (cells, cells)).astype(np.float32)
    return np.array(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
