"""Times the operations on the chip at hand, beside other ways to do the same: `cd kernels && python -m benchmarks`.

Correctness comes first: a way whose numbers are off is reported as failed and not timed. Needs jax and numpy only.
"""
