"""Procedural scenes with exact geometry, and posed captures."""
