"""Kernels for NVIDIA Hopper and Blackwell (Pallas Mosaic GPU), and cuDNN's attention for what it does; what they
refuse, `refusal` of each module says why."""
