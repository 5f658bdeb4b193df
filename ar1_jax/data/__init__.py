"""Samples: where scenes with their truth come from, and the pipelines that feed training."""
