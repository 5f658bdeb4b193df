"""Rotations, rigid frames, arcs of road, cameras and unicycle motion, as pure functions on arrays."""
