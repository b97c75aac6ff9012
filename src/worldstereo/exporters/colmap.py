"""Worlds as COLMAP models: which frames see which points, and clouds of models."""

from pathlib import Path

import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import Observations, read_colmap_points
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.sharp_rendering import render_points_sharp

_DEPTH_TOLERANCE = 0.02


def observe(cloud: PointCloud, cameras: Cameras, limit: int = 20_000) -> Observations:
    """Which cameras see which points, for points evenly chosen from the cloud.

    A point is seen where it lies in the image no deeper than the cloud's visible surface (`render_points_sharp`, up to
    2 %). Points that fewer than two cameras see are left out, as two make a track. Time O(cameras × points); one
    image's depth is held at a time.

    Args:
        cloud: all points, which hide each other.
        cameras: of the frames.
        limit: on the points that are followed, as a feature detector's are few.
    """
    cloud, cameras = cloud.to("cpu"), cameras.to("cpu")
    chosen = torch.arange(len(cloud))[:: max(1, -(-len(cloud) // limit))]
    images, points, pixels = [], [], []
    for index, camera in enumerate(cameras):
        surface = render_points_sharp(cloud, camera).depth[0]
        places, depths = (values[0] for values in camera.project(cloud.points[chosen]))
        inside = (depths > 0) & (places >= 0).all(dim=1)
        inside &= (places[:, 0] < camera.width) & (places[:, 1] < camera.height)
        places, depths, seen = places[inside], depths[inside], chosen[inside]
        column, row = places.long().unbind(dim=1)
        visible = (depths - surface[row, column]).abs() <= _DEPTH_TOLERANCE * depths
        images.append(torch.full((int(visible.sum()),), index))
        points.append(seen[visible])
        pixels.append(places[visible])
    image, point, pixel = torch.cat(images), torch.cat(points), torch.cat(pixels)
    often = torch.bincount(point, minlength=len(cloud))[point] >= 2
    return Observations(image[often], point[often], pixel[often])


def read_colmap_cloud(folder: str | Path) -> PointCloud:
    """The points of a COLMAP model, text or binary, with their colours.

    Raises:
        InputError: the folder has no points, or they are malformed.
    """
    found = read_colmap_points(folder)
    return PointCloud(found.points, found.colors)
