"""From conditions to clips, and from clips to a world."""
