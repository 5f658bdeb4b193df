"""The prompt as text: system, user (images, history, route, instruction or question), start of the assistant.

Rendered as the Qwen3-VL chat template renders it (inference.md section 5). Alpamayo 1 shows bare images; 1.5 and our
own models name cameras and frames. History and image tokens are placeholders; the caller fills or expands them.
"""

from collections.abc import Sequence

SYSTEM = "You are a driving assistant that generates safe and accurate actions."
INSTRUCTION = (
    "output the chain-of-thought reasoning of the driving process, then output the future trajectory."
)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CAMERAS = {
    0: "Front left camera", 1: "Front camera", 2: "Front right camera", 3: "Rear left camera", 4: "Rear camera",
    5: "Rear right camera", 6: "Front telephoto camera",
}  # fmt: skip
_HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
_TURN = "<|im_end|>\n<|im_start|>assistant\n"


def camera_name(camera_id: int) -> str:
    """What the prompt calls a camera."""
    return CAMERAS.get(int(camera_id), f"Camera {int(camera_id)}")


def image_text(family: str, camera_ids: Sequence[int], frames: int) -> str:
    """One placeholder an image, cameras in order, frames oldest first, labelled where the family labels."""
    if family == "alpamayo_r1":
        return IMAGE * (len(camera_ids) * frames)
    shown = "".join(f"frame {k} {IMAGE}" for k in range(frames))
    return "".join(f"{camera_name(camera)}: {shown}" for camera in camera_ids)


def plan_segments(
    family: str, camera_ids: Sequence[int], frames: int, history_tokens: int, route: str | None
):
    """The prompt that asks for a plan, as (text, is the user's) pieces; a route is the user's and stays plain."""
    history = "<|traj_history_start|>" + "<|traj_history|>" * history_tokens + "<|traj_history_end|>"
    start = _HEAD + image_text(family, camera_ids, frames) + history
    end = INSTRUCTION + _TURN + "<|cot_start|>"
    if route is None or family == "alpamayo_r1":
        return ((start + end, False),)
    return ((start + "<|route_start|>", False), (route, True), ("<|route_end|>" + end, False))


def answer_segments(family: str, camera_ids: Sequence[int], frames: int, question: str):
    """The prompt that asks a question, as (text, is the user's) pieces."""
    start = _HEAD + image_text(family, camera_ids, frames) + "<|question_start|>"
    return ((start, False), (question, True), ("<|question_end|>" + _TURN + "<|answer_start|>", False))


def phrases(camera_ids: Sequence[int], frames: int) -> tuple[str, ...]:
    """The fixed texts of a labelled prompt: what a small vocabulary spends one token each on."""
    names = tuple(f"{camera_name(camera)}: " for camera in camera_ids)
    shown = tuple(f"frame {k} " for k in range(frames))
    return ("system\n", "user\n", "assistant\n", "\n", SYSTEM, INSTRUCTION, *names, *shown)
