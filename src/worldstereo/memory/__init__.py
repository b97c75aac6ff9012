"""The two geometric memories: a growing point cloud and a bank of posed frames."""
