"""What an action space and its codecs are: frozen descriptions, leafless pytrees, so that they pass through jit.

`of` accepts the description itself or the dict of a checkpoint's config.json (action_space_cfg, traj_tokenizer_cfg,
hist_traj_tokenizer_cfg). Defaults are the released values; the `nano_*` functions give the mended forms that the
small policy is trained with (0.4 s controls held over four steps, squared bins with an exact zero, a history that
does not saturate and whose yaw keeps its sign)."""

import dataclasses
from typing import Any

import flax.struct

from ar1_jax.core import errors

IGNORED = ("_target_", "_recursive_", "load_weights")  # instantiation keys of the released configs


def static(default: Any) -> Any:
    """A field that is part of the description, not an array."""
    return flax.struct.field(pytree_node=False, default=default)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _of(cls: type, config: Any, renamed: dict[str, str]) -> Any:
    """`config` as a `cls`: itself, or built from a dict; unknown keys are refused together."""
    if isinstance(config, cls):
        return config
    known = [f.name for f in dataclasses.fields(cls)]
    given = {renamed.get(k, k): _tuples(v) for k, v in dict(config).items() if k not in IGNORED}
    unknown = [k + errors.nearest(k, known) for k in given if k not in known]
    if unknown:
        raise errors.ConfigError(f"{cls.__name__}: unknown keys " + ", ".join(unknown))
    return cls(**given)


@flax.struct.dataclass
class UnicycleConfig:
    """The space of controls (acceleration m/s², curvature 1/m), normalised by mean and std.

    dt: s per control; n_waypoints: A controls; hold: steps of 0.1 s that one control spans (dt = 0.1 hold).
    *_lambda, *_ridge: smoothing and ridge of the least squares that recovers theta, speed, acceleration, curvature.
    mended: decode clips curvature to its bounds and drops it where the vehicle stands (unicycle.decode).
    """

    accel_mean: float = static(0.02902694707164455)
    accel_std: float = static(0.6810426736454882)
    curvature_mean: float = static(0.0002692167976330542)
    curvature_std: float = static(0.026148280660833106)
    accel_bounds: tuple[float, float] = static((-9.8, 9.8))
    curvature_bounds: tuple[float, float] = static((-0.33, 0.33))
    dt: float = static(0.1)
    n_waypoints: int = static(64)
    hold: int = static(1)
    theta_lambda: float = static(1e-6)
    theta_ridge: float = static(1e-8)
    v_lambda: float = static(1e-6)
    v_ridge: float = static(1e-4)
    a_lambda: float = static(1e-4)
    a_ridge: float = static(1e-4)
    kappa_lambda: float = static(1e-4)
    kappa_ridge: float = static(1e-4)
    mended: bool = static(False)

    @classmethod
    def of(cls, config: Any) -> "UnicycleConfig":
        """From a UnicycleConfig or the dict of `action_space_cfg`."""
        return _of(cls, config, {})

    from_dict = of


@flax.struct.dataclass
class FutureCodecConfig:
    """Controls as ids: per control an acceleration id, then a curvature id.

    dims_min, dims_max: range of the normalised action, (acceleration, curvature). spacing "uniform": equal bins, as
    released; "squared": bins at range * u² on either side of a bin that is exactly zero. separate: curvature ids are
    num_bins .. 2 num_bins - 1 instead of sharing the acceleration's. feedback: choose each bin so that the decoded
    state, not the control, stays nearest to the motion (future.track).
    """

    action_space: UnicycleConfig = static(UnicycleConfig())
    dims_min: tuple[float, float] = static((-10.0, -10.0))
    dims_max: tuple[float, float] = static((10.0, 10.0))
    num_bins: int = static(3000)
    spacing: str = static("uniform")
    separate: bool = static(False)
    feedback: bool = static(False)

    @classmethod
    def of(cls, config: Any) -> "FutureCodecConfig":
        """From a FutureCodecConfig or the dict of `traj_tokenizer_cfg`."""
        made = _of(cls, config, {"action_space_cfg": "action_space"})
        if made.spacing not in ("uniform", "squared"):
            raise errors.ConfigError(
                f'FutureCodecConfig: spacing is "{made.spacing}", not "uniform" or "squared"'
            )
        return made.replace(action_space=UnicycleConfig.of(made.action_space))

    from_dict = of


@flax.struct.dataclass
class HistoryCodecConfig:
    """Past poses as ids of their steps (history.py). mended: steps in the earlier pose's own frame (dx, dy, dyaw),
    `stride` rows apart, without the absolute first position; otherwise as released."""

    num_bins: int = static(1000)
    ego_xyz_min: tuple[float, float, float] = static((-4.0, -4.0, -10.0))
    ego_xyz_max: tuple[float, float, float] = static((4.0, 4.0, 10.0))
    ego_yaw_min: float = static(-3.141592653589793)
    ego_yaw_max: float = static(3.141592653589793)
    predict_yaw: bool = static(False)
    mended: bool = static(False)
    stride: int = static(1)

    @classmethod
    def of(cls, config: Any) -> "HistoryCodecConfig":
        """From a HistoryCodecConfig or the dict of `hist_traj_tokenizer_cfg`."""
        return _of(cls, config, {"xyz_min": "ego_xyz_min", "xyz_max": "ego_xyz_max"})

    from_dict = of

    @property
    def ids(self) -> int:
        """Number of ids that a history of 16 rows becomes: 48, 64 with yaw, 9 in the nano form."""
        return 3 * (15 // self.stride) if self.mended else 16 * (4 if self.predict_yaw else 3)


def nano_unicycle() -> UnicycleConfig:
    """16 controls of 0.4 s, mended; divided by about their deviation over the scenes of the world (0.9, 0.005)."""
    return UnicycleConfig(
        accel_mean=0.0,
        accel_std=1.0,
        curvature_mean=0.0,
        curvature_std=0.008,
        dt=0.4,
        n_waypoints=16,
        hold=4,
        mended=True,
    )


def nano_future(num_bins: int = 65) -> FutureCodecConfig:
    """Squared bins with an exact zero: acceleration ±6 m/s², curvature ±0.08 1/m; separate ids per channel."""
    space = nano_unicycle()
    limits = (6.0 / space.accel_std, 0.08 / space.curvature_std)
    return FutureCodecConfig(
        action_space=space,
        dims_min=(-limits[0], -limits[1]),
        dims_max=limits,
        num_bins=num_bins,
        spacing="squared",
        separate=True,
        feedback=True,
    )


def nano_history(num_bins: int = 128) -> HistoryCodecConfig:
    """Three steps of 0.5 s: -4 .. 24 m/s forward, ±1.27 m sideways, ±0.5 rad: 9 ids."""
    return HistoryCodecConfig(
        num_bins=num_bins,
        ego_xyz_min=(-2.0, -1.27, -1.0),
        ego_xyz_max=(12.0, 1.27, 1.0),
        ego_yaw_min=-0.5,
        ego_yaw_max=0.5,
        predict_yaw=True,
        mended=True,
        stride=5,
    )
