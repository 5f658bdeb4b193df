"""The rate against the release's formula written out, and against worked numbers."""

import math

from ar1_jax.train import schedule


def reference(step, total, warmup, floor):
    """transformers' cosine_warmup_with_min_lr as `post_training.md` 2.5 prints it."""
    if step < warmup:
        return (step + 1) / warmup
    p = (step - warmup + 1) / (total - warmup)
    return 0.5 * (1 + math.cos(math.pi * p)) * (1 - floor) + floor


def test_factor_is_the_released_schedule():
    plan = schedule.Plan(total=50, warmup=10, floor=0.05)
    for step in range(50):
        assert abs(plan.factor(step) - reference(step, 50, 10, 0.05)) < 1e-12
    assert plan.factor(49) == plan.factor(80) == 0.05


def test_a_revised_plan_goes_on_without_a_jump_and_ends_at_the_floor():
    plan = schedule.Plan(total=1000, warmup=100, floor=0.05)
    for step, total in ((400, 700), (550, 900)):
        before = plan.factor(step - 1)
        plan = plan.revise(step, total)
        assert abs(plan.factor(step) - before) < 0.01
        assert plan.factor(total - 1) == 0.05
    assert plan.revise(50, 200) == schedule.Plan(total=200, warmup=100, floor=0.05)
