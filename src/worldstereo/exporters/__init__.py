"""File formats for points and worlds, loader beside writer."""
