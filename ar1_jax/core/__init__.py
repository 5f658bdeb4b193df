"""Floor 0: errors, configuration, run log, signals, sharding tables, trees, operation costs and the shared types."""
