"""Kernels for NVIDIA Hopper (Pallas Mosaic GPU: wgmma, TMA), and cuDNN's attention for what it does; what they refuse,
`refusal` of each module says why."""
