"""A health report as one page: no script, no other file, nothing fetched."""
