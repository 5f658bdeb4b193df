"""Arrays in, picture or page out: figures of plans, report pages. Knows no world and no policy."""
