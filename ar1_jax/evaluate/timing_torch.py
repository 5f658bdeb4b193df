"""Times the same prompt in transformers, as the reference plans: every row repeated K times, pictures too.

`python -m ar1_jax.evaluate.timing_torch WORKLOAD FOLDER` in an environment with torch and transformers. FOLDER is what
`workload.export` wrote. The prompt is read for each of the K rows (inference.md section 7, point 3), then one id more
than the workload's tokens is decoded greedily: the decoder runs once a token behind the prompt, as ours does. Cache:
DynamicCache; attention: sdpa; logits of the last position only; the end of the turn never ends a row.

What differs from `timing`: ours warms up with one whole plan at the K that is measured, theirs with one short plan of
one row (nothing is compiled). Their prefill includes the rope index, the mask and one row of the output head; ours has
the mrope positions computed beforehand on the host and the first use of the head under decode. Both are greedy, so the
top-p is in neither. Ours keeps a cache with room for more ids than are drawn, theirs grows.
"""

import json
import sys
import time

import numpy as np

from ar1_jax.evaluate import timing, workload


class Clock:
    """Wall and processor seconds between a module's call and its return, one entry a call."""

    def __init__(self, module):
        self.calls: list[tuple[float, float]] = []
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, *_):
        self.start = time.perf_counter(), time.process_time()

    def _after(self, *_):
        self.calls.append((time.perf_counter() - self.start[0], time.process_time() - self.start[1]))


def measure(load: workload.Workload, folder: str) -> dict:
    """Seconds of every stage and repeat (wall and processor), peak bytes; like `timing.measure`."""
    import torch
    import transformers

    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, load.dtype), attn_implementation="sdpa", local_files_only=True
    ).eval()
    prompt = workload.prompt_of(load, *workload.model_of(load))
    whole, eye = Clock(model), Clock(model.model.visual)
    weights, runs, out = timing.resident_peak(), [], None
    short = {"rows": 1, "tokens": 2}
    for repeat in range(load.repeats + 1):
        whole.calls, eye.calls = [], []
        rows = (
            short if not repeat else {"rows": load.samples, "tokens": load.tokens}
        )  # one short plan warms up
        out = generate(model, load, prompt, **rows)
        (see, busy), first, rest = eye.calls[0], whole.calls[0], whole.calls[1:]
        runs.append({"vision": (see, busy), "prefill": (first[0] - see, first[1] - busy),
                     "decode": tuple(sum(call[i] for call in rest) for i in (0, 1))})  # fmt: skip
        print(f"transformers K={rows['rows']} {f'repeat {repeat}/{load.repeats}' if repeat else 'warm-up'}: "
              + ", ".join(f"{name} {wall:.2f} s" for name, (wall, _) in runs[-1].items()), flush=True)  # fmt: skip
    ids = out[:, prompt.input_ids.shape[1] :]
    return {
        "engine": "transformers", "workload": vars(load), "device": f"cpu, {torch.get_num_threads()} threads",
        "seconds": [{name: wall for name, (wall, _) in run.items()} for run in runs[1:]],
        "processor_seconds": [{name: busy for name, (_, busy) in run.items()} for run in runs[1:]],
        "tokens": [ids.shape[1] - 1] * len(ids), "ids": ids[:, :-1].tolist(),
        "peak_bytes": timing.resident_peak(), "peak_bytes_loaded": weights,
    }  # fmt: skip


def generate(model, load: workload.Workload, prompt, rows: int, tokens: int):
    """Greedy ids of `rows` copies of the prompt, tokens + 1 of them; pictures are copied too."""
    import torch

    ids = torch.tensor(np.asarray(prompt.input_ids), dtype=torch.long).repeat(rows, 1)
    pixels = torch.tensor(np.asarray(prompt.pixels[0]).reshape(-1, prompt.pixels[0].shape[-1]))
    grid = torch.tensor([(1, load.rows, load.columns)] * (load.images * rows))
    with torch.inference_mode():
        return model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.repeat(rows, 1).to(model.dtype),
            image_grid_thw=grid, do_sample=False, max_new_tokens=tokens + 1, min_new_tokens=tokens + 1,
            eos_token_id=None, pad_token_id=0, use_cache=True,
        )  # fmt: skip


def command(argv: list[str]) -> None:
    """The process that measures."""
    import torch

    load = workload.Workload(**json.loads(argv[0]))
    timing.limit_threads(load.threads)
    torch.set_num_threads(load.threads or timing.processors())
    print(json.dumps(measure(load, argv[1])))


if __name__ == "__main__":
    command(sys.argv[1:])
