"""The embedded driving world: scenes with their pictures, futures, decisions and causes, all from a seed."""
