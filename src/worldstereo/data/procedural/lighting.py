"""Light of a scene: sun, sky with clouds, a few lamps, ambient light inside and outside."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.data.procedural.noise import fractal_noise

LAMPS = 3


@dataclass(frozen=True)
class Lighting:
    """Light of one scene (or of several, with a leading dimension). Colours are linear RGB.

    Attributes:
        sun: unit direction towards the sun.
        sun_color: its light, 0 for none.
        zenith, horizon: colours of the sky.
        clouds: amount in [0, 1], size, and two offsets of the pattern.
        ambient: light from above and from below, outside; light inside.
        inside: centre and half size of the box that counts as inside.
        lamps: position, direction of the lobe (0 for all directions), and colour of each lamp.
        haze: distance in metres at which two thirds of a far thing are haze.
        exposure: factors of the three channels before the tone curve: brightness and white balance.
    """

    sun: Float[Tensor, "*b 3"]
    sun_color: Float[Tensor, "*b 3"]
    zenith: Float[Tensor, "*b 3"]
    horizon: Float[Tensor, "*b 3"]
    clouds: Float[Tensor, "*b 4"]
    ambient: Float[Tensor, "*b 3 3"]
    inside: Float[Tensor, "*b 2 3"]
    lamps: Float[Tensor, "*b l 3 3"]
    haze: Float[Tensor, "*b"]
    exposure: Float[Tensor, "*b 3"]

    def taken(self, scene: Int[Tensor, " v"]) -> "Lighting":
        """The light of some of several scenes."""
        return Lighting(**{f.name: getattr(self, f.name)[scene] for f in fields(Lighting)})

    def repeated(self, times: int) -> "Lighting":
        """The light of each of several scenes, repeated."""
        return Lighting(**{f.name: getattr(self, f.name).repeat_interleave(times, dim=0) for f in fields(Lighting)})


def sky_color(light: Lighting, direction: Float[Tensor, "b 3 r"]) -> Float[Tensor, "b 3 r"]:
    """Sky in unit directions (y down): a gradient, the sun and its glow, clouds. `light` has the dimension b."""
    up = -direction[:, 1:2]
    height = up.clamp(0, 1)
    color = torch.lerp(light.horizon[..., None], light.zenith[..., None], 1 - (1 - height) ** 3)
    towards = (direction * light.sun[..., None]).sum(1, keepdim=True).clamp(0, 1)
    color = color + light.sun_color[..., None] * (0.12 * towards**8 + 0.25 * towards**96 + 6 * (towards > 0.9996))

    amount, size, shift_x, shift_z = light.clouds[:, :, None, None].unbind(1)
    plane = direction[:, ::2] / (up + 0.12).clamp(min=0.05) * size
    place = torch.cat([plane[:, :1] + shift_x, torch.zeros_like(up), plane[:, 1:] + shift_z], dim=1)
    points = place.transpose(1, 2).reshape(-1, 3)
    noise = fractal_noise(points, torch.zeros_like(points[:, 0]), octaves=5)[:, 0].view_as(up)
    cover = ((noise * 0.8 + 2 * amount - 1) * 2.2).clamp(0, 1) * (height * 9).clamp(0, 1)
    cover = cover * cover * (3 - 2 * cover)
    cloud = light.ambient[:, 0, :, None] * (1.25 - 0.35 * noise) + 0.25 * light.sun_color[..., None]
    return torch.lerp(color, cloud, cover * 0.9)


def tone_map(radiance: Float[Tensor, "b 3 r"], exposure: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 r"]:
    """Display colours in [0, 1] by a filmic curve and a gamma of 2.2."""
    x = (radiance * exposure[..., None]).clamp(min=0)
    return (x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)).clamp(0, 1) ** (1 / 2.2)
