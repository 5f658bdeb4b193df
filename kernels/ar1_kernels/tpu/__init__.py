"""Kernels for TPUs (Mosaic, through Pallas): attention, shared-prefix attention, log-probabilities."""
