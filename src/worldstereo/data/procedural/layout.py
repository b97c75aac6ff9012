"""What a kind of scene gives: solids, light, and where a photographer may stand."""

from dataclasses import dataclass, field

from worldstereo.data.procedural.building import Builder, Number, Triple
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.daylight import Daylight


@dataclass
class Layout:
    """A scene in the making.

    Attributes:
        rng: the only source of chance.
        builder: solids.
        daylight: weather and lamps.
        walks: boxes in the world (low and high corners, y down) in which cameras may be.
        indoors: whether the picture is exposed for the inside.
    """

    rng: Chance
    builder: Builder
    daylight: Daylight
    walks: list[tuple[Triple, Triple]] = field(default_factory=list)
    indoors: bool = False

    @classmethod
    def empty(cls, rng: Chance) -> "Layout":
        """Nothing yet."""
        return cls(rng, Builder(rng), Daylight(rng))

    def walk(self, x: tuple[Number, Number], z: tuple[Number, Number], up: tuple[Number, Number] = (0.9, 2.0)) -> None:
        """Let cameras be between two places."""
        self.walks.append(((x[0], -up[1], z[0]), (x[1], -up[0], z[1])))
