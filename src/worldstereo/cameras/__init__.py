"""Cameras, camera paths and their files. OpenCV axes (x right, y down, z forward), pixel centres at +0.5."""

from worldstereo.cameras.cameras import Cameras

__all__ = ["Cameras"]
