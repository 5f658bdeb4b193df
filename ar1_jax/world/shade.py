"""Colours: ground, sky and the faces of boxes, all by formula. Everything broadcasts over pixels [P].

Colours are 0..1 before brightness. Paint is widened with distance so that lines neither flicker nor vanish at 160 x 96.
Metres, road coordinates (s, d); u, v, w: position on a box in half sizes, -1..1, x forward, y left, z up of the box."""

import jax.numpy as jnp
import numpy as np

from ar1_jax.world import boxes, state

_EDGE = 1.5 * state.LANE  # centre of the solid edge line
_PAVEMENT = state.KERB + 2.2
# texture, the same in every scene
_NOISE = np.random.default_rng(0).uniform(-1.0, 1.0, 4096).astype(np.float32)
LAMP_RADIUS, LAMP_STEP = 0.29, 0.66  # m, on the light's housing
LIT = {state.RED: (1.0, 0.06, 0.05), state.YELLOW: (1.0, 0.8, 0.05), state.GREEN: (0.1, 1.0, 0.45)}
BRAKE_LIT, BRAKE_DARK = (1.0, 0.05, 0.12), (0.3, 0.03, 0.03)


def _mix(below, above, amount):
    """Colours [..., 3] and amounts [...] -> below where 0, above where 1."""
    return below + (jnp.asarray(above, jnp.float32) - below) * amount[..., None]


def _cover(offset, half_width, spread):
    """How much of a pixel of size `spread` a stripe covers: offset [P] m from its middle."""
    return jnp.clip((half_width - jnp.abs(offset)) / spread + 0.5, 0.0, 1.0)


def _noise(first, second, scale):
    """Blocky noise in -1..1 of ground coordinates."""
    index = jnp.floor(first * scale) * 57.0 + jnp.floor(second * scale) * 131.0
    return jnp.asarray(_NOISE)[jnp.mod(index, 4096.0).astype(jnp.int32)]


def _phase(value, period):
    """Distance to the nearest multiple of the period."""
    return value - period * jnp.round(value / period)


def ground(s, d, distance, pixel_angle, light, look):
    """s, d [P] of the ground points, distance [P] along the ray -> colour [P, 3]."""
    across = distance * pixel_angle + 0.02
    along = distance * across * 0.6 + 0.03  # a pixel lies far along the road
    fade = 1.0 / (1.0 + (distance / 25.0) ** 2)
    grain = _noise(s, d, 1.6) * fade
    patch = _noise(s, d, 0.16)
    width = jnp.abs(d)
    crossing = _cover(s - light.stop - boxes.BEYOND_LINE - 5.5, 3.6, along) * (light.state > 0)
    grass = jnp.asarray(look.grass) * (1.0 + 0.10 * grain + 0.07 * patch)[..., None]
    slab = jnp.minimum(jnp.abs(_phase(s, 1.5)), jnp.abs(_phase(width - state.KERB, 1.1)))
    stone = 0.56 + 0.03 * grain - 0.1 * fade * (slab < 0.05)
    asphalt = 0.30 + 0.025 * grain + 0.006 * patch - 0.03 * jnp.exp(-jnp.square((jnp.abs(d) - 0.8) / 0.35))
    grey = lambda value: jnp.stack([value, value, value * 1.03], -1)
    on_road = jnp.maximum(_cover(width, state.KERB, across), crossing)
    colour = _mix(grass, grey(stone), _cover(width, _PAVEMENT, across))
    colour = _mix(colour, (0.74, 0.74, 0.72), _cover(width - state.KERB - 0.12, 0.14, across))
    colour = _mix(colour, grey(asphalt), on_road)
    dash = _cover(_phase(s - 1.5, 9.0), 2.2, along)
    open_road = 1.0 - crossing
    colour = _mix(colour, (0.9, 0.9, 0.88), _cover(width - _EDGE, 0.09, across) * open_road)
    colour = _mix(colour, (0.9, 0.9, 0.88), _cover(d + state.LANE / 2, 0.09, across) * dash * open_road)
    colour = _mix(colour, (0.93, 0.72, 0.15), _cover(d - state.LANE / 2, 0.09, across) * dash * open_road)
    here = (light.state > 0).astype(jnp.float32)
    inside = here * _cover(d + state.LANE / 2, state.LANE, across)
    colour = _mix(colour, (0.92, 0.92, 0.9), _cover(s - light.stop - 0.25, 0.25, along) * inside)
    zebra = _cover(_phase(d, 1.0), 0.25, across) * _cover(width, _EDGE - 0.3, across)
    return _mix(colour, (0.88, 0.88, 0.86), _cover(s - light.stop - 2.2, 1.1, along) * zebra * here)


def sky(up, look):
    """Sine of the elevation [P] -> colour [P, 3]: haze at the horizon, blue or grey above."""
    blue = jnp.stack([0.30 + 0.25 * look.overcast, 0.50 + 0.12 * look.overcast, 0.86 - 0.12 * look.overcast])
    return _mix(horizon(look), blue, jnp.sqrt(jnp.clip(up * 1.6, 0.0, 1.0)))


def horizon(look):
    """Colour [3] of haze."""
    return jnp.stack([0.80 - 0.02 * look.overcast, 0.85 - 0.03 * look.overcast, 0.92 - 0.06 * look.overcast])


def box(kind, colour, lit, u, v, w, half, face, sun_side):
    """Colour [P, 3] of points on boxes and whether a lamp shines there [P].

    kind, lit [P]; colour [P, 3]; u, v, w [P]; half [P, 3]; face [P]: 0 x, 1 y, 2 z; sun_side [P] -1..1."""
    light = jnp.where(face == 2, jnp.where(w > 0, 1.08, 0.5), 0.80 + 0.2 * sun_side)
    is_kind = lambda name: kind == boxes.KIND[name]
    rear, front = (face == 0) & (u < 0), (face == 0) & (u > 0)
    out = colour * light[..., None]
    dark = _body_dark(is_kind, half, face, u, v, w)
    out = jnp.where(dark[..., None], jnp.asarray([0.05, 0.055, 0.065]), out)
    glass = is_kind("cabin") & (face < 2) & (w < 0.72) & (jnp.abs(jnp.where(face == 0, v, u)) < 0.9)
    out = jnp.where(glass[..., None], jnp.asarray([0.13, 0.17, 0.21]) * light[..., None], out)
    lamps = is_kind("body") & (jnp.abs(v) > 0.5) & (jnp.abs(v) < 0.97) & (w > 0.05) & (w < 0.8)
    high = is_kind("cabin") & (jnp.abs(v) < 0.45) & (w < -0.35)
    brake = rear & (lamps | (high & (lit > 0)))
    brake_colour = jnp.where((lit > 0)[..., None], jnp.asarray(BRAKE_LIT), jnp.asarray(BRAKE_DARK))
    out = jnp.where(brake[..., None], brake_colour, out)
    out = jnp.where((front & lamps)[..., None], jnp.asarray([0.95, 0.95, 0.85]), out)
    plate = rear & is_kind("body") & (jnp.abs(v) < 0.26) & (w > -0.2) & (w < 0.3)
    out = jnp.where(plate[..., None], jnp.asarray([0.85, 0.85, 0.8]), out)
    person = is_kind("person")
    out = jnp.where((person & (w > 0.72))[..., None], jnp.asarray([0.82, 0.62, 0.5]) * light[..., None], out)
    out = jnp.where((person & (w < -0.1))[..., None], jnp.asarray([0.12, 0.13, 0.2]) * light[..., None], out)
    out = _house(is_kind, out, light, half, face, u, v, w)
    leaf = 1.0 + 0.22 * _noise(
        u * half[..., 0] + w * half[..., 2], v * half[..., 1] + 0.6 * w * half[..., 2], 2.2
    )
    out = jnp.where(is_kind("crown")[..., None], out * leaf[..., None], out)
    out, signal = _signal(is_kind("housing") & rear, out, lit, v * half[..., 1], w * half[..., 2])
    return out, signal | (brake & (lit > 0))


def _body_dark(is_kind, half, face, u, v, w):
    """Bumpers, wheels: the dark parts of a car's body."""
    wheel = (face == 1) & (w < 0.1) & (jnp.abs(jnp.abs(u) - 0.62) < 0.15)
    return is_kind("body") & (wheel | ((face < 2) & (w < -0.55)))


def _house(is_kind, out, light, half, face, u, v, w):
    """Windows in rows, a dark roof edge."""
    along = jnp.where(face == 0, v * half[..., 1], u * half[..., 0])
    up = (w + 1.0) * half[..., 2]
    window = (
        (face < 2)
        & (jnp.abs(_phase(along, 2.4)) < 0.55)
        & (jnp.abs(_phase(up - 1.5, 2.7)) < 0.65)
        & (w < 0.8)
    )
    out = jnp.where((is_kind("house") & window)[..., None], jnp.asarray([0.22, 0.27, 0.33]), out)
    roof = is_kind("house") & (w > 0.84)
    return jnp.where(roof[..., None], jnp.asarray([0.45, 0.22, 0.17]) * light[..., None], out)


def _signal(where, out, lit, across, up):
    """Three round lamps on the housing, red above; the lit one shines, the others are dim."""
    shines = jnp.zeros_like(where)
    for which, (colour, height) in enumerate(
        zip(LIT.values(), (LAMP_STEP, 0.0, -LAMP_STEP), strict=True), start=1
    ):
        disc = where & (across**2 + (up - height) ** 2 < LAMP_RADIUS**2)
        on = disc & (jnp.abs(lit - which) < 0.5)
        out = jnp.where(disc[..., None], jnp.asarray(colour) * 0.16, out)
        out = jnp.where(on[..., None], jnp.asarray(colour), out)
        shines = shines | on
    return out, shines
