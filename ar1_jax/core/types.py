"""Containers that every room shares: what a policy sees (Scene) and what it answers (Plan, Answer).

C cameras, T frames, K samples, A controls, W = 64 waypoints at 0.1 s. Frames: x forward, y left, z up, metres,
the ego frame at t0. Everything is frozen; `.replace` makes a changed copy.
"""

import flax.struct
import numpy as np


@flax.struct.dataclass
class CameraModel:
    """Calibration of one camera.

    model: "pinhole" (fx, fy, cx, cy in pixels) or "ftheta" (radius in pixels = polynomial(angle in rad), lowest
    order first). width, height: native size in pixels. rig_from_camera: float32 [4, 4], camera axes x right, y down,
    z forward.
    """

    model: str = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)
    height: int = flax.struct.field(pytree_node=False)
    fx: float = 0.0
    fy: float = 0.0
    cx: float = 0.0
    cy: float = 0.0
    polynomial: tuple[float, ...] = ()
    rig_from_camera: np.ndarray | None = None


@flax.struct.dataclass
class Scene:
    """What the policy sees at t0.

    images: uint8 [C, T, H, W, 3], cameras in ascending id, frames oldest first. camera_ids: int32 [C] (0 front left,
    1 front wide, 2 front right, 3 rear left, 4 rear tele, 5 rear right, 6 front tele). ego_history_xyz: float32
    [16, 3] m and ego_history_rot: float32 [16, 3, 3], 10 Hz, the last row is t0 (origin, identity). frame_times:
    float [C, T] s from t0. calibration: one CameraModel a camera.
    """

    images: np.ndarray
    camera_ids: np.ndarray
    ego_history_xyz: np.ndarray
    ego_history_rot: np.ndarray
    route: str | None = flax.struct.field(pytree_node=False, default=None)
    question: str | None = flax.struct.field(pytree_node=False, default=None)
    frame_times: np.ndarray | None = None
    calibration: tuple[CameraModel, ...] | None = None


@flax.struct.dataclass
class Plan:
    """K reasonings and K trajectories for one scene.

    trajectory_xyz: float32 [K, 64, 3] m; trajectory_rot: float32 [K, 64, 3, 3]; controls: float32 [K, A, 2] m/s²,
    1/m; actions: the same, normalised as the checkpoint does. reasoning: K strings. token_ids: int32 [K, n] padded
    after the end, log_prob: float32 [K, n] (0 in the padding), lengths: int32 [K], complete: bool [K], True where
    the reasoning ended by itself within the limit. rounds: how often the decoder ran to draw the reasonings.
    """

    trajectory_xyz: np.ndarray
    trajectory_rot: np.ndarray
    controls: np.ndarray
    actions: np.ndarray
    reasoning: tuple[str, ...] = flax.struct.field(pytree_node=False)
    token_ids: np.ndarray
    log_prob: np.ndarray
    lengths: np.ndarray
    complete: np.ndarray
    rounds: int = flax.struct.field(pytree_node=False, default=0)

    def influence(self, other: "Plan") -> float:
        """How far the ways move when this plan's reasoning is replaced by `other`'s, in units of their own spread.

        Both plans are of one scene and start from the same noise (`plan` with one key, or one noise=; other with
        reasoning=), so that sample k differs by its reasoning alone. The mean over K samples and W waypoints of the
        distance in the plane between way k here and there, divided by the mean over all pairs of samples of their
        distance here. 0: the ways ignore the text; 1: another text moves them as far as another draw does.
        NaN where there is no spread to compare with: K = 1, or all ways the same. ValueError where K or W differ.
        """
        own, moved = (np.asarray(plan.trajectory_xyz, np.float64)[..., :2] for plan in (self, other))
        if own.shape != moved.shape:
            shapes = " and ".join(str(list(np.shape(plan.trajectory_xyz))) for plan in (self, other))
            raise ValueError(f"influence: trajectories {shapes}; the same samples of one scene are compared")
        pairs = np.triu_indices(len(own), 1)
        spread = np.linalg.norm(own[pairs[0]] - own[pairs[1]], axis=-1)
        if not spread.any():
            return float("nan")
        return float(np.linalg.norm(own - moved, axis=-1).mean() / spread.mean())


@flax.struct.dataclass
class Answer:
    """An answer to a scene's question: input_ids int32 [1, S], token_ids int32 [1, n], text."""

    input_ids: np.ndarray
    token_ids: np.ndarray
    text: str = flax.struct.field(pytree_node=False)
