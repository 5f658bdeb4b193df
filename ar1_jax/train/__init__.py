"""Supervised fine-tuning: losses, optimiser, one step, the loop with exact resume."""
