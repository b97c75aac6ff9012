"""Points, their projection and their alignment."""

from worldstereo.geometry.point_cloud import PointCloud

__all__ = ["PointCloud"]
