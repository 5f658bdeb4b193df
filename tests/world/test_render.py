"""Against a ray caster in NumPy that clips one ray at a time, and against lamps projected through the calibration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.geometry import cameras
from ar1_jax.world import boxes, driver, families, render, rig, state

SAMPLE, DECIDE, LABELS = jax.jit(families.sample), jax.jit(driver.decide), jax.jit(boxes.agent_labels)
ZERO = (jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))


@functools.cache
def drawn():
    """One compiled program for every test: world -> boxes, pictures."""
    return jax.jit(
        lambda world, pose: (boxes.of_world(world), render.render(world, boxes.of_world(world), pose))
    )


def scene(family, number, **changes):
    """A world of a family, the agents of the distractors away, with changes to agents of slot 0 or 4 or the light."""
    world, _ = SAMPLE(jax.random.key(number), families.weights(family))
    world = world.replace(road=state.Road(jnp.float32(0.0)), look=world.look.replace(haze=jnp.float32(0.001)))
    return world.replace(**changes)


def empty(world, *slots):
    keep = jnp.isin(jnp.arange(state.AGENTS), jnp.array(slots or (-1,)))
    return world.agents.replace(valid=world.agents.valid & keep)


def first_hit(table, origin, direction):
    """(distance, box) of one ray by the three pairs of planes of every box, in float64; inf, -1 for none."""
    best, which = np.inf, -1
    for number in np.flatnonzero(table.valid):
        c, s = np.cos(table.yaw[number]), np.sin(table.yaw[number])
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        o, d = turn @ (origin - table.centre[number]), turn @ direction
        enter, leave = -np.inf, np.inf
        for axis in range(3):
            near, far = sorted(((-table.half[number][axis] - o[axis]) / d[axis],
                                (table.half[number][axis] - o[axis]) / d[axis]))  # fmt: skip
            enter, leave = max(enter, near), min(leave, far)
        if 0.05 < enter < leave and enter < best:
            best, which = enter, number
    return best, which


@pytest.mark.parametrize("family, number", [("lead", 3), ("light", 5)])
def test_hits_agree_with_rays_one_at_a_time(family, number):
    """Labels and hit counts follow from which box a ray meets first: here for every 11th ray of the tele camera and
    every 97th of the others, boxes and all. A few rays graze an edge, where float32 may decide otherwise."""
    world = scene(family, number)
    table, _ = drawn()(world, ZERO)
    tables, wrong, left_out, total = rig.tables(), 0, 0, 0
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), table)
    for camera, stride in ((1, 97), (3, 11)):
        kept = render._cull(table, *(jnp.asarray(t[camera]) for t in (tables.axis, tables.half_view)))
        direction = tables.direction[camera][::stride]
        distance, nearest = render._nearest(kept.geometry, jnp.asarray(direction))
        numbers = np.asarray(kept.looks[:, 6])
        number_of = numbers[np.asarray(nearest)]
        for ray in range(len(direction)):
            want, which = first_hit(
                host, np.array(rig.POSITION, np.float64), direction[ray].astype(np.float64)
            )
            if which >= 0 and which not in numbers:
                assert table.label[which] == boxes.NOTHING, "only far scenery may be left out"
                left_out += 1
            elif which < 0:
                wrong += float(distance[ray]) < 9e3
            else:
                wrong += int(number_of[ray]) != which or abs(float(distance[ray]) - want) > 1e-3 * want
            total += 1
    assert total > 1500 and wrong <= 0.004 * total and left_out <= 0.03 * total, (
        f"{wrong}, {left_out} of {total}"
    )


@pytest.mark.parametrize("which, cell_class, colour", [
    (state.RED, "red_lamp", (1.0, 0.06, 0.05)),
    (state.YELLOW, "yellow_lamp", (1.0, 0.8, 0.05)),
    (state.GREEN, "green_lamp", (0.1, 1.0, 0.45)),
])  # fmt: skip
def test_lamp_shines_where_the_calibration_says(which, cell_class, colour):
    """A light 30 m ahead: the pixel of its lit lamp has that colour, the cell its class, the other lamps are dark."""
    light = state.Light(state=jnp.int32(which), stop=jnp.float32(27.5), d=jnp.float32(0.4))
    world = scene("free", 1, light=light)
    world = world.replace(agents=empty(world))
    _, pictures = drawn()(world, ZERO)
    tele = rig.calibration()[3]
    offset = {state.RED: 0.66, state.YELLOW: 0.0, state.GREEN: -0.66}
    for lamp, up in offset.items():
        point = np.array([[31.23, 0.4, boxes.HOUSING_HEIGHT + up]], np.float32)
        (column, row), visible = (value[0] for value in cameras.project(tele, point))
        assert visible
        pixel = np.asarray(pictures.images)[3, int(row), int(column)] / 255.0
        if lamp == which:
            np.testing.assert_allclose(pixel, colour, atol=0.06)
            cells = np.asarray(pictures.cells)[3, int(row) // 32, int(column) // 32]
            assert cells[boxes.CLASS[cell_class]] == 1
        else:
            assert pixel.max() < 0.3
    present = np.asarray(pictures.cells).any((0, 1, 2))
    assert [boxes.CELL_CLASSES[i] for i in np.flatnonzero(present)] == [cell_class]
    assert int(pictures.shining[boxes.LIGHT]) >= 20


def test_brake_lamps_are_lit_only_when_braking():
    world = scene("lead", 0)
    lead = lambda brake: state.put(
        empty(world, 0), 0, s=25.0, d=0.0, speed=10.0, kind=state.VEHICLE, brake=brake
    )
    dark, lit = (drawn()(world.replace(agents=lead(brake)), ZERO)[1] for brake in (False, True))
    at = boxes.CLASS["brake_light"]
    assert not np.asarray(dark.cells)[..., at].any() and np.asarray(lit.cells)[3, ..., at].any()
    assert int(dark.shining[:8].sum()) == 0 and int(lit.shining[:8].sum()) > 30
    red = lambda pictures: (
        ((p := np.asarray(pictures.images)[3].astype(int))[..., 0] > 200) & (p[..., 1] < 60)
    )
    assert red(lit).sum() > 30 and red(dark).sum() == 0
    assert np.asarray(dark.cells)[3, ..., boxes.CLASS["lead_vehicle"]].any()


@pytest.mark.parametrize(
    "d, name", [(2.0, "person_on_road_left"), (-2.0, "person_on_road_right"), (6.8, "person_aside")]
)
def test_person_is_labelled_where_they_stand(d, name):
    world = scene("pedestrian", 0)
    agents = state.put(empty(world, 4), 4, s=25.0, d=d, cross=0.0)
    _, pictures = drawn()(world.replace(agents=agents, light=world.light.replace(state=jnp.int32(0))), ZERO)
    seen = np.flatnonzero(np.asarray(pictures.cells).any((0, 1, 2)))
    assert [boxes.CELL_CLASSES[i] for i in seen] == [name]
    (column, row), _ = (
        v[0] for v in cameras.project(rig.calibration()[1], np.array([[25.0, d, 0.9]], np.float32))
    )
    assert np.asarray(pictures.cells)[1, int(row) // 32, int(column) // 32, boxes.CLASS[name]] == 1


def test_blocking_vehicle_is_told_from_a_parked_one():
    world = scene("nudge", 0)
    for d, name in (
        (-1.6, "blocking_vehicle_right"),
        (1.6, "blocking_vehicle_left"),
        (-4.0, "vehicle_aside"),
    ):
        agents = state.put(empty(world, 0), 0, s=25.0, d=d, heading=0.0)
        _, pictures = drawn()(
            world.replace(agents=agents, light=world.light.replace(state=jnp.int32(0))), ZERO
        )
        seen = np.flatnonzero(np.asarray(pictures.cells).any((0, 1, 2)))
        assert [boxes.CELL_CLASSES[i] for i in seen] == [name]


def test_moving_the_ego_moves_the_world():
    """2 m further on and turned by 0.1 rad, a lead looks as one that stands 2 m nearer in a turned world."""
    world = scene("lead", 0)
    world = world.replace(agents=state.put(empty(world, 0), 0, s=25.0, d=0.0, speed=10.0))
    _, moved = drawn()(world, (jnp.float32(2.0), jnp.float32(0.0), jnp.float32(0.1)))
    seen = np.asarray(moved.cells)[3, ..., boxes.CLASS["lead_vehicle"]]
    point = np.array([[20.75 * np.cos(0.1), -20.75 * np.sin(0.1), 0.8]], np.float32)
    (column, row), _ = (value[0] for value in cameras.project(rig.calibration()[3], point))
    assert seen[int(row) // 32, int(column) // 32] and column > 100
    _, still = drawn()(world, ZERO)
    assert not np.array_equal(moved.images, still.images)


def test_paint_on_the_ground_moves_too():
    """The stop line at s = 20, seen after 4 m ahead, 0.5 m left and 0.1 rad left: bright where the calibration puts
    it, asphalt 1.5 m before it and in the oncoming lane."""
    light = state.Light(state=jnp.int32(state.RED), stop=jnp.float32(20.0), d=jnp.float32(0.0))
    world = scene("free", 1, light=light)
    x, y, yaw = 4.0, 0.5, 0.1
    _, pictures = drawn()(world.replace(agents=empty(world)), tuple(jnp.float32(v) for v in (x, y, yaw)))
    grey = {}
    for name, s, d in (("line", 20.25, -1.2), ("before", 18.5, -1.2), ("beside", 20.25, 2.7)):
        dx, dy = s - x, d - y
        point = [[np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx, 0.0]]
        (column, row), visible = (
            v[0] for v in cameras.project(rig.calibration()[3], np.array(point, np.float32))
        )
        assert visible
        grey[name] = np.asarray(pictures.images)[3, int(row), int(column)].mean() / float(
            world.look.brightness
        )
    assert grey["line"] > 140 and max(grey["before"], grey["beside"]) < 120, grey


def test_batched_equals_single():
    worlds = [scene(family, 7) for family in ("lead", "light", "pedestrian")]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
    whole = jax.jit(jax.vmap(lambda world: render.render(world, boxes.of_world(world), ZERO)))(stacked)
    for row, world in enumerate(worlds):
        _, single = drawn()(world, ZERO)
        np.testing.assert_array_equal(whole.cells[row], single.cells)
        difference = np.abs(np.asarray(whole.images[row], int) - np.asarray(single.images, int))
        assert (difference > 1).mean() < 1e-4, "rounding may differ by a grey level, or at an edge"


def test_driver_and_picture_agree_on_classes():
    """What the driver reacts to carries a class that demands it."""
    for family in ("lead", "nudge", "pedestrian"):
        for number in range(8):
            world, _ = SAMPLE(jax.random.key(number), families.weights(family))
            decision, label = DECIDE(world), np.asarray(LABELS(world))
            names = {
                boxes.CELL_CLASSES[i] for i, valid in zip(label, np.asarray(world.agents.valid)) if valid
            }
            assert bool(decision.yields) == bool(names & {"person_on_road_left", "person_on_road_right"})
            assert bool(decision.nudges != 0) == bool(
                names & {"blocking_vehicle_left", "blocking_vehicle_right"}
            )
