"""Attention and log-probability operations of a vision-language-action model; knows jax and nothing of ar1_jax."""

from ar1_kernels.attention import attention
from ar1_kernels.linear_log_prob import linear_log_prob
from ar1_kernels.shared_prefix import shared_prefix_attention

__all__ = ["attention", "linear_log_prob", "shared_prefix_attention"]
