"""Scene folders, written by hand with one mistake each; and real recordings where AR1_REAL_DATA names their folder."""

import json
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from ar1_jax.core import errors, scenes
from ar1_jax.data import examples, folder

REAL = os.environ.get("AR1_REAL_DATA")
real = pytest.mark.skipif(
    not REAL, reason="needs AR1_REAL_DATA=folder of real recordings; they may not be shipped"
)
GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "real_egomotion.npz"
CAMERA = [[0, 0, 1, 1.7], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]
PIXELS = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3)).astype(np.uint8)


def history():
    return [[float(x), 0.0, 0.0] for x in np.arange(-15, 1)]


def write(path, change=lambda raw: None):
    """A good folder of two cameras with two frames each, after `change`; png keeps every pixel."""
    path.mkdir(exist_ok=True)
    calibration = {"model": "pinhole", "width": 64, "height": 48, "fx": 40, "fy": 40, "cx": 32, "cy": 24}
    raw = {
        "cameras": [
            {"id": camera, "frames": [{"file": f"{camera}_{n}.png", "time": 0.1 * (n - 1)} for n in range(2)],
             "calibration": calibration | {"rig_from_camera": CAMERA}}
            for camera in (1, 6)
        ],
        "ego_history": {"xyz": history(), "rot": np.eye(3)[None].repeat(16, 0).tolist()},
        "route": "Turn left",
        "future": [[float(x), 0.0, 0.0] for x in range(1, 65)],
    }  # fmt: skip
    for index, pixels in enumerate(PIXELS):
        PIL.Image.fromarray(pixels).save(path / f"{(1, 6)[index // 2]}_{index % 2}.png")
    change(raw)
    (path / "scene.json").write_text(json.dumps(raw))
    return path


def test_what_was_written_is_read(tmp_path):
    (example,) = folder.load_folder(write(tmp_path / "mine"))
    scene = example.scene
    np.testing.assert_array_equal(scene.images, PIXELS.reshape(2, 2, 48, 64, 3))
    assert scene.camera_ids.tolist() == [1, 6] and scene.route == "Turn left" and example.name == "mine"
    np.testing.assert_allclose(scene.frame_times, [[-0.1, 0.0]] * 2)
    np.testing.assert_allclose(scene.ego_history_xyz[0], [-15, 0, 0])
    np.testing.assert_allclose(scene.calibration[1].rig_from_camera, CAMERA)
    assert example.future_xyz.shape == (64, 3) and example.notes == ()
    (one,) = folder.load_folder(tmp_path / "mine", frames=1)
    np.testing.assert_array_equal(one.scene.images[:, 0], PIXELS[1::2])


def test_quaternions_grey_pictures_and_several_scenes(tmp_path):
    def change(raw):
        raw["ego_history"] = {"xyz": history(), "quat_xyzw": [[0, 0, 0, 1]] * 16}
        del raw["cameras"][1:], raw["future"]

    write(tmp_path / "b"), write(tmp_path / "a", change)
    for n in range(2):
        PIL.Image.fromarray(PIXELS[n, ..., 0]).save(tmp_path / "a" / f"1_{n}.png")
    first, second = folder.load_folder(tmp_path)
    assert (first.name, second.name) == ("a", "b") and first.future_xyz is None
    np.testing.assert_array_equal(first.scene.images[0], PIXELS[:2, ..., :1].repeat(3, -1))
    np.testing.assert_allclose(first.scene.ego_history_rot, np.eye(3)[None].repeat(16, 0))


def put(*path):
    """A change that sets raw[path[0]][path[1]]... = path[-1]."""

    def change(raw):
        for key in path[:-2]:
            raw = raw[key]
        raw[path[-2]] = path[-1]

    return change


MISTAKES = {
    "missing": (
        put("cameras", 0, "frames", 1, "file", "1_2.png"),
        "cameras[0].frames[1].file: 1_2.png is missing (did",
    ),
    "outside": (put("cameras", 0, "frames", 1, "file", "../x.png"), "lies outside"),
    "no picture": (put("cameras", 0, "frames", 1, "file", "scene.json"), "cannot be read as a picture"),
    "no name": (put("cameras", 0, "frames", 1, "file", 3), "a file name is expected, got 3"),
    "typo": (put("rout", "x"), 'rout: unknown key (did you mean "route"?)'),
    "typo below": (put("cameras", 0, "frames", 0, "tim", 0), "cameras[0].frames[0].tim: unknown key"),
    "id text": (put("cameras", 0, "id", "front"), "cameras[0].id: a whole number"),
    "id order": (put("cameras", 0, "id", 6), "names a camera twice"),
    "frame count": (put("cameras", 0, "frames", [{"file": "1_1.png", "time": 0}]), "[1, 2] frames"),
    "reversed": (put("cameras", 0, "frames", 1, "time", -0.2), "out of order"),
    "some times": (put("cameras", 0, "frames", 1, "time", None), "on all frames or on none"),
    "history gone": (put("ego_history", None), "ego_history: missing"),
    "rows": (put("ego_history", "xyz", history()[1:]), "shape [15, 3], expected [16, 3]"),
    "ragged": (put("ego_history", "xyz", 3, [1.0]), "ego_history.xyz: list"),
    "units": (put("ego_history", "xyz", (np.asarray(history()) * 1000).tolist()), "millimetres"),
    "quaternion": (
        put("ego_history", {"xyz": history(), "quat_xyzw": [[0, 0, 0, 2]] * 16}),
        "unit quaternions",
    ),
    "both": (put("ego_history", "quat_xyzw", [[0, 0, 0, 1]] * 16), "both rot and quat_xyzw"),
    "calibration": (
        put("cameras", 1, "calibration", {"model": "pinhole"}),
        "cameras[1].calibration: KeyError",
    ),
    "model": (put("cameras", 1, "calibration", "model", "fisheye"), "'fisheye' is not one of"),
    "some calibrated": (put("cameras", 1, "calibration", None), "cameras[1].calibration"),
    "future": (put("future", [[1, 2]]), "future: shape [1, 2]"),
    "cameras": (put("cameras", {}), "cameras: a list of at least one object"),
    "route": (put("route", 5), "route: text is expected"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_with_its_file_and_key(tmp_path, name):
    change, message = MISTAKES[name]
    with pytest.raises(errors.SceneError) as error:
        folder.load_folder(write(tmp_path / "s", change))
    assert message in str(error.value) and "scene.json: " in str(error.value)


def test_sizes_that_differ_are_refused(tmp_path):
    path = write(tmp_path / "s")
    PIL.Image.fromarray(PIXELS[0, :40]).save(path / "6_0.png")
    with pytest.raises(errors.SceneError, match="different sizes: .*6_0.png 64x40"):
        folder.load_folder(path)


def test_all_problems_come_at_once(tmp_path):
    def change(raw):
        raw["cameras"][0]["frames"][0]["file"] = "gone.png"
        raw["ego_history"]["xyz"] = (np.asarray(history()) * 1000).tolist()
        raw["wrong"] = 1

    with pytest.raises(errors.SceneError) as error:
        folder.load_folder(write(tmp_path / "s", change))
    for part in ("3 problems", "gone.png", "millimetres", "wrong: unknown key"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "line 1"), ("[]", "holds a list"), (None, "has no scene.json"), ("{}", "cameras")],
)
def test_a_file_that_is_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "scene.json").write_text(text)
    with pytest.raises(errors.SceneError, match=message):
        folder.load_folder(tmp_path)
    with pytest.raises(errors.SceneError, match="no such folder"):
        folder.load_folder(tmp_path / "gone")


def bundled():
    return pathlib.Path(folder.__file__).parents[1] / "assets" / "scenes" / "comma2k19"


def test_bundled_recording_is_a_scene_small_and_licensed():
    (example,) = folder.load_folder(bundled(), frames=1)
    assert example.scene.images.shape == (1, 1, 437, 582, 3) and example.future_xyz is not None
    assert "MIT License" in (bundled() / "LICENSE.txt").read_text()
    assert sum(f.stat().st_size for f in bundled().iterdir()) < 200_000


def recorded(tmp_path, change):
    """The bundled recording after `change`."""
    raw = json.loads((bundled() / "scene.json").read_text())
    change(raw)
    (tmp_path / "scene.json").write_text(json.dumps(raw))
    (tmp_path / "front.jpg").write_bytes((bundled() / "front.jpg").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["egomotion"].reverse(), "egomotion: timestamp_us runs backwards"),
        (lambda raw: raw["egomotion"][5].update(timestamp_us=0), "does not grow at entry 5"),
        (
            lambda raw: [e.update(timestamp_us=e["timestamp_us"] / 1e6) for e in raw["egomotion"]],
            "in microseconds",
        ),
        (lambda raw: raw["egomotion"][5].pop("xyz"), r"egomotion\[\].xyz"),
        (lambda raw: raw["egomotion"][5].update(quat_xyzw=[0, 0, 0, 3]), "row 5 is of length 3"),
        (lambda raw: raw["cameras"][0].update(reference_index=None), "reference_index: a whole number"),
        (lambda raw: raw["cameras"][0]["frames"].clear(), r"cameras\[0\].frames: a list"),
        (lambda raw: raw["cameras"][0].update(reference_index=4), "not rear tele"),
        (lambda raw: raw["egomotion"].__delitem__(slice(10, 40)), "poses lie 1.55 s apart"),
    ],
)
def test_mistakes_of_a_recording(tmp_path, change, message):
    with pytest.raises(errors.SceneError, match=message):
        folder.load_folder(recorded(tmp_path, change))


def test_moment_outside_a_recording_and_of_a_plain_scene(tmp_path):
    with pytest.raises(errors.SceneError, match="needs poses from"):
        folder.load_folder(bundled(), t0=20.0)
    with pytest.raises(errors.SceneError, match="can be chosen in a recording"):
        folder.load_folder(write(tmp_path / "s"), t0=1.0)


@real
@pytest.mark.parametrize(
    ("name", "cameras", "reach"),
    [("kitti_odometry_06", [1], 73.6), ("kitti_turn", [1], None), ("comma2k19_segment40", [1], 93.3),
     ("nuscenes_mini_sample", [0, 1, 2, 3, 4, 5], None)],
)  # fmt: skip
def test_real_recordings_become_scenes(name, cameras, reach):
    (example,) = folder.load_folder(pathlib.Path(REAL) / name)
    assert example.scene.camera_ids.tolist() == cameras and example.scene.images.shape[1] == 4
    assert (example.future_xyz is None) == (reach is None)
    if reach is not None:
        np.testing.assert_allclose(example.future_xyz[-1, 0], reach, atol=0.1)


@real
@pytest.mark.skipif(not GOLDENS.exists(), reason="needs tests/goldens/real_egomotion.npz")
def test_rotations_equal_the_released_preparation():
    """Goldens made from the unsmoothed positions, so those agree to centimetres only; rotations exactly."""
    stored = np.load(GOLDENS)
    for index in (0, 7, 19):
        moment = float(stored["real/t0_seconds"][index])
        scene = folder.load_folder(pathlib.Path(REAL) / "comma2k19_segment40", t0=moment, frames=1)[0].scene
        np.testing.assert_allclose(scene.ego_history_rot, stored["real/in/ego_history_rot"][index], atol=1e-6)
        np.testing.assert_allclose(scene.ego_history_xyz, stored["real/in/ego_history_xyz"][index], atol=0.05)


ODD = [
    None,
    True,
    -1,
    3.5,
    float("nan"),
    1e30,
    "x",
    "",
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    [1, "2"],
    "../scene.json",
]


def places(raw, path=()):
    """Every place of a JSON value, long lists by their first and last item only."""
    yield path
    if isinstance(raw, dict):
        for key in raw:
            yield from places(raw[key], (*path, key))
    elif isinstance(raw, list):
        for index in sorted({0, len(raw) - 1} & set(range(len(raw)))):
            yield from places(raw[index], (*path, index))


@pytest.mark.parametrize("kind", ["scene", "recording"])
def test_no_odd_value_anywhere_gives_another_error(tmp_path, kind):
    """Each place of a good file is replaced by each odd value: a SceneError or a scene, never a traceback."""
    if kind == "scene":
        path = write(tmp_path / "s")
    else:
        path = recorded(tmp_path, lambda raw: raw["egomotion"].__delitem__(slice(60, None)))
    good, refused = json.loads((path / "scene.json").read_text()), 0
    for place in list(places(good))[1:]:
        for odd in ODD:
            raw = json.loads(json.dumps(good))
            put(*place, odd)(raw)
            (path / "scene.json").write_text(json.dumps(raw))
            try:
                folder.load_folder(path, frames=1)
            except errors.SceneError:
                refused += 1
    assert refused > 200


def test_an_absent_camera_made_black_is_mounted_nowhere_and_the_others_keep_their_calibration():
    """Alpamayo 1 reads four cameras in a fixed order; three of them black, the ways are still drawn on the fourth."""
    scene = examples.shipped(frames=1).scene
    filled, _ = examples.fit(scene, (0, 1, 2, 6), 1, fill=True)
    assert not filled.images[[0, 2, 3]].any() and (filled.images[1] == scene.images[0]).all()
    assert filled.calibration[1] == scene.calibration[0]
    assert [camera.rig_from_camera is None for camera in filled.calibration] == [True, False, True, True]
    assert (filled.calibration[0].width, filled.calibration[0].height) == scene.images.shape[3:1:-1]
    assert scenes.problems(filled) == []
