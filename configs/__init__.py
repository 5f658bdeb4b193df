"""Configuration files, one per verb; shipped as ar1_jax.configs."""
