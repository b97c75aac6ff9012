"""Random weather and lamps of a scene."""

from dataclasses import dataclass, field
from math import cos, exp, pi, radians, sin

import numpy as np
import torch

from worldstereo.data.procedural.building import Number, Triple
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.lighting import LAMPS, Lighting


@dataclass
class Daylight:
    """Weather drawn from a generator, lamps added by the scene's builder, packed at the end.

    `inside` is the box (low and high corners in the world) in which the ambient light is `indoor_ambient`.
    """

    rng: Chance
    indoor_ambient: Number = 0.0
    inside: tuple[Triple, Triple] = ((0, 0, 0), (0, 0, 0))
    lamps: list[tuple[Triple, Triple, Triple]] = field(default_factory=list)

    def add_lamp(self, place: Triple, color: Triple, towards: Triple = (0, 0, 0)) -> None:
        """A lamp, in all directions or in a lobe; those after the first `LAMPS` are left out."""
        self.lamps.append((place, towards, color))

    def packed(self, inside_exposure: bool) -> Lighting:
        """The light, exposed for the inside or the outside."""
        rng = self.rng
        overcast = rng.happens(0.25)
        elevation = radians(rng.between(12, 65))
        azimuth = rng.between(-pi, pi)
        low_sun = max(0.0, 1 - elevation / 0.6)
        sun = np.array([cos(elevation) * sin(azimuth), -sin(elevation), cos(elevation) * cos(azimuth)])
        warm = np.array([1.0, 0.95 - 0.25 * low_sun, 0.85 - 0.45 * low_sun])
        sun_color = warm * rng.between(2.2, 3.2) * (0.0 if overcast else 1.0)
        blue = np.array([0.16, 0.34, 0.72]) * rng.between(0.7, 1.2)
        grey = np.array([0.62, 0.66, 0.72]) * rng.between(0.8, 1.1)
        zenith = grey if overcast else blue
        horizon = grey * 1.15 if overcast else np.array([0.72, 0.84, 0.98]) * (1 - 0.3 * low_sun) + warm * 0.3 * low_sun
        ambient = 0.75 * (np.array([0.95, 1.0, 1.1]) if overcast else np.array([0.62, 0.75, 1.0]))
        bounce = ambient * 0.35 + sun_color * 0.08 * max(0.2, sin(elevation))
        tint = np.array([1.0, 0.96, 0.9]) if inside_exposure else np.ones(3)
        balance = np.exp([rng.normal(0, 0.05) for _ in range(3)])
        bright = exp(rng.normal(0, 0.14)) * (1.25 if inside_exposure else 0.8 if not overcast else 0.95)
        low, high = np.array(self.inside[0]), np.array(self.inside[1])
        lamps = np.zeros((LAMPS, 3, 3))
        for index, (place, towards, color) in enumerate(self.lamps[:LAMPS]):
            lamps[index] = (place, towards, color)

        def tensor(values: object) -> torch.Tensor:
            return torch.tensor(np.asarray(values), dtype=torch.float32)

        return Lighting(
            sun=tensor(sun),
            sun_color=tensor(sun_color),
            zenith=tensor(zenith),
            horizon=tensor(horizon),
            clouds=tensor([rng.between(0.1, 0.75), rng.between(0.5, 1.6), rng.between(0, 32), rng.between(0, 32)]),
            ambient=tensor([ambient, bounce, tint * self.indoor_ambient]),
            inside=tensor([(low + high) / 2, (high - low) / 2]),
            lamps=tensor(lamps),
            haze=tensor(rng.between_log(250, 2500)),
            exposure=tensor(bright * balance),
        )
