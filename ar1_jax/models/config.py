"""Shapes of the three networks: vision tower, text decoder, flow expert. Frozen and hashable: static under jit.

Names are the checkpoint's (inference.md sections 1.1 and 1.2); what differs from a plain Qwen3-VL is said there.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Qwen3-VL text decoder: GQA with q/k norm, SwiGLU, interleaved mRoPE."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    mrope_section: tuple[int, int, int]
    rope_theta: float = 5_000_000.0
    rms_norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Qwen3-VL vision tower with DeepStack taps after the blocks `deepstack_visual_indexes`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_position_embeddings: int
    out_hidden_size: int
    deepstack_visual_indexes: tuple[int, ...]
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Flow-matching expert: the text decoder's layers, kv heads and head width with its own widths.

    frequencies: those stored in the checkpoint (Alpamayo 1 stores them, rounded to its dtype); None: computed.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    in_hidden_size: int
    in_layers: int
    fourier_features: int = 20
    max_frequency: float = 100.0
    frequencies: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The whole model. image_token_id marks the prompt positions that image features fill.

    kernels: back-end of attention and log-probabilities (`ar1_kernels.backend`): "auto", "xla", "pallas_tpu",
    "pallas_gpu" or "cudnn" (which has attention without a shared prefix only; the others are then chosen by "auto").
    """

    text: TextConfig
    vision: VisionConfig
    expert: ExpertConfig | None
    image_token_id: int
    actions: int = 64
    remat: bool = False
    kernels: str = "auto"

    def expert_text(self) -> TextConfig:
        """The expert's decoder: depth, kv heads, head width and rotary of the text decoder, widths of its own."""
        return dataclasses.replace(
            self.text,
            hidden_size=self.expert.hidden_size,
            intermediate_size=self.expert.intermediate_size,
            num_attention_heads=self.expert.num_attention_heads,
        )
