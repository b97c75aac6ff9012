"""From frames with exact cameras to a scene worth keeping: consistent depth, cloud, mesh."""
