"""Depth back-ends behind one protocol."""

from worldstereo.depth.base import DepthEstimator, DepthPrediction

__all__ = ["DepthEstimator", "DepthPrediction"]
