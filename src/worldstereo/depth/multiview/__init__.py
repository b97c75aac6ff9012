"""Depth from several pictures whose cameras are known."""
