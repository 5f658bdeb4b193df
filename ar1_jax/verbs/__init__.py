"""Floor 7: one file per verb; run(config) -> exit code."""
