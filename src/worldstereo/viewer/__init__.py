"""Pages to look at: the interactive scene view and the report."""
