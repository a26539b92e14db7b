"""Whether a position lies within a shape: on a sphere, by squared chords between unit vectors.

A chord needs no trigonometry per comparison and has no trouble at the poles or the antimeridian. Against the ellipsoid
a sphere is off by at most 0.56 % of the distance.
"""

import math

from fleetcore.query.ast import Box, Circle, Polygon

#: The mean radius R1 of the Earth (IUGG), metres.
EARTH_M = 6_371_008.8

Vector = tuple[float, float, float]


def unit_vector(lat: float, lon: float) -> Vector:
    """The point on the unit sphere; degrees."""
    phi, lam = math.radians(lat), math.radians(lon)
    return math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)


def squared_chord(radius_m: float) -> float:
    """The squared straight distance on the unit sphere that belongs to a distance along the ground."""
    half = min(radius_m / (2 * EARTH_M), math.pi / 2)
    return 4 * math.sin(half) ** 2


def within(shape: Circle | Box | Polygon, lat: float, lon: float) -> bool:
    """Whether the point lies in the shape or on its edge."""
    match shape:
        case Circle(centre_lat, centre_lon, radius_m):
            a, b = unit_vector(centre_lat, centre_lon), unit_vector(lat, lon)
            return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2 <= squared_chord(radius_m)
        case Box(south, west, north, east):
            inside = west <= lon <= east if west <= east else lon >= west or lon <= east
            return south <= lat <= north and inside
        case Polygon(rings):
            outside, *holes = rings
            return _in_ring(outside, lat, lon) and not any(_in_ring(hole, lat, lon) for hole in holes)


def _in_ring(ring: tuple[tuple[float, float], ...], lat: float, lon: float) -> bool:
    """Even-odd rule, longitudes taken relative to the point so that a ring may cross the antimeridian."""
    inside = False
    before_lat, before_lon = ring[-1][0], _turn(ring[-1][1] - lon)
    for here_lat, here in ring:
        # Each edge takes the short way round.
        here_lon = before_lon + _turn(here - lon - before_lon)
        if (before_lat > lat) != (here_lat > lat):
            crossing = before_lon + (lat - before_lat) / (here_lat - before_lat) * (here_lon - before_lon)
            inside ^= crossing > 0
        before_lat, before_lon = here_lat, _turn(here_lon)
    return inside


def _turn(degrees: float) -> float:
    """The same angle within [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0
