"""Exports a policy as portable programs with weights and a manifest, for runtimes that know nothing of this package.

Writes a new folder, see docs/export.md. Prints what each stage takes and how large it is.
"""

import time

from ar1_jax.core import errors
from ar1_jax.export import stages, writing
from ar1_jax.policy import loading


def run(config) -> int:
    """Exports; returns the exit code."""
    start = time.monotonic()
    if not config.target:
        raise errors.ConfigError("export: config.target is empty; name a new folder")
    for name in config.stages:
        errors.one_of(name, stages.WEIGHTS, "config.stages")
    for name in config.platforms:
        errors.one_of(name, writing.PLATFORMS, "config.platforms")
    if config.dtype:
        errors.one_of(config.dtype, ("bfloat16", "float16", "float32"), "config.dtype")
    policy = loading.load(
        config.policy,
        dtype=config.dtype or None,
        quantization=config.quantization or None,
        kernels=config.kernels,
    )
    sizes = stages.sizes_of(policy, config)
    manifest = writing.write(
        policy, sizes, config.target, tuple(config.stages), tuple(config.platforms), config.chip
    )
    print(f"{policy.source} ({policy.config.family}) -> {config.target}, for {', '.join(config.platforms)}")
    for name, about in manifest["stages"].items():
        inputs = ", ".join(i["name"] for i in about["inputs"])
        print(f"  {name:<8} {about['bytes'] / 1000:7.1f} kB, {len(about['weights']):3} weights; {inputs}")
    size = manifest["files"][manifest["weights"]["file"]]["bytes"]
    print(f"  weights  {size / 1e6:7.1f} MB; {time.monotonic() - start:.1f} s")
    return errors.DONE
