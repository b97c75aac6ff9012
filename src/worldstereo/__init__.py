"""WorldStereo: consistent videos along exact camera paths, and a 3D scene, from one picture."""

__version__ = "0.1.0"
