"""Seeded scenes with exact geometry, ray-cast in batches: training data, tests' and evaluation's ground truth."""

from worldstereo.data.procedural.rendering import SceneRender
from worldstereo.data.procedural.scene import ProceduralScene, SceneKind, render_scenes

__all__ = ["ProceduralScene", "SceneKind", "SceneRender", "render_scenes"]
