"""Against polygons clipped and rectangles sampled point by point in NumPy, and numbers worked by hand."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ar1_jax.geometry import rotations
from ar1_jax.metrics import collision

NUMBER = st.floats(-6.0, 6.0, width=32)
SIZE = st.floats(0.5, 6.0, width=32)
BOX = st.tuples(NUMBER, NUMBER, NUMBER, SIZE, SIZE).map(lambda box: np.array(box, np.float32))
SEPARATION = jax.jit(collision.separation)


def inside(points, box):
    """bool [n]: points [n, 2] in the box, by turning them into its frame."""
    x, y, yaw, length, width = box
    dx, dy = points[:, 0] - x, points[:, 1] - y
    along, aside = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
    return (np.abs(along) <= length / 2) & (np.abs(aside) <= width / 2)


def grid(box, n=61):
    """[n * n, 2] points that fill the box, edges included."""
    x, y, yaw, length, width = (float(value) for value in box)
    a, b = np.meshgrid(np.linspace(-length / 2, length / 2, n), np.linspace(-width / 2, width / 2, n))
    a, b = a.ravel(), b.ravel()
    return np.stack([x + a * np.cos(yaw) - b * np.sin(yaw), y + a * np.sin(yaw) + b * np.cos(yaw)], -1)


def test_overlap_is_what_points_say():
    """400 random pairs; those within the grid's 0.15 m of touching are left to the worked cases."""
    rng = np.random.default_rng(0)
    low, high = np.array([-4, -4, -3, 0.5, 0.5]), np.array([4, 4, 3, 6, 3])
    first, second = rng.uniform(low, high, (2, 400, 5)).astype(np.float32)
    gap = np.asarray(SEPARATION(first, second))
    touch = [inside(grid(a), b).any() or inside(grid(b), a).any() for a, b in zip(first, second)]
    clear = np.abs(gap) > 0.15
    assert ((gap < 0.0) == touch)[clear].all()
    assert (gap[clear] < 0).sum() > 100 and (gap[clear] > 0).sum() > 100, "both outcomes must occur"


@settings(deadline=None, max_examples=50)
@given(BOX, BOX, NUMBER)
def test_order_and_frame_do_not_matter(first, second, turn):
    gap = float(SEPARATION(first, second))
    assert abs(float(SEPARATION(second, first)) - gap) < 1e-4
    c, s = np.cos(turn), np.sin(turn)
    moved = [np.array([c * b[0] - s * b[1] + 3.0, s * b[0] + c * b[1] - 1.0, b[2] + turn, b[3], b[4]], np.float32)
             for b in (first, second)]  # fmt: skip
    assert abs(float(SEPARATION(*moved)) - gap) < 1e-4


def test_gap_by_hand():
    """Two boxes 4 x 2 in a row with 1 m between; side by side; across; and a diagonal one whose corner reaches 2 m
    from its centre."""
    row = np.array([[0, 0, 0, 4, 2], [5, 0, 0, 4, 2]], np.float32)
    np.testing.assert_allclose(collision.separation(row[0], row[1]), 1.0, atol=1e-6)
    beside, across = np.array([[1, 3, 0, 4, 2], [0, 3.5, np.pi / 2, 4, 2]], np.float32)
    np.testing.assert_allclose(collision.separation(row[0], beside), 1.0, atol=1e-6)
    np.testing.assert_allclose(collision.separation(row[0], across), 0.5, atol=1e-6)
    side = np.sqrt(8.0)  # a square with half diagonal 2
    square = np.array([0.0, 3.5, np.pi / 4, side, side], np.float32)
    np.testing.assert_allclose(collision.separation(row[0], square), 0.5, atol=1e-5)


def test_corners_by_hand():
    turned = np.array([1.0, 2.0, np.pi / 2, 4.0, 2.0], np.float32)
    np.testing.assert_allclose(collision.corners(turned), [[0, 4], [2, 4], [2, 0], [0, 0]], atol=1e-6)


def test_ego_box_lies_ahead_of_the_rear_axle():
    xyz, rot = np.zeros((1, 3), np.float32), rotations.from_yaw(np.full(1, np.pi / 2, np.float32))
    box = collision.ego_boxes(xyz, rot)
    np.testing.assert_allclose(box, [[0.0, 1.35, np.pi / 2, 4.7, 1.9]], atol=1e-6)


def test_only_valid_agents_at_their_own_time_collide():
    """The ego drives straight through x = 20 at the second of three waypoints; the agent is there at the third."""
    xyz = np.array([[10, 0, 0], [20, 0, 0], [30, 0, 0]], np.float32)
    rot = np.broadcast_to(np.eye(3, dtype=np.float32), (3, 3, 3))
    agents = np.zeros((2, 3, 7), np.float32)
    agents[0, :, :] = [32, 1, 0, 4, 2, 1, 1]
    agents[1, :, :] = [20, 0, 0, 4, 2, 0, 1]  # not valid
    assert np.asarray(collision.collides(xyz, rot, agents)).tolist() == [False, False, True]
    agents[1, 1, 5] = 1.0
    assert np.asarray(collision.collides(xyz, rot, agents)).tolist() == [False, True, True]
    agents[..., 5] = 0.0
    assert np.all(np.isinf(collision.clearance(xyz, rot, agents)))
