"""Which back-end runs: what is asked for, what the platform offers, and what cannot run is refused with its reason."""

import logging

import jax
import jax.numpy as jnp
import pytest
from ar1_kernels import attention, backend, linear_log_prob, shared_prefix_attention
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

X = jnp.ones((1, 4, 2, 8))
FREE = {"pallas_tpu": lambda: None, "pallas_gpu": lambda: None, "cudnn": lambda: None}


def operations(name):
    """The three operations on tiny arrays by back-end `name`."""
    rows, weight, labels = jnp.ones((3, 8)), jnp.ones((8, 5)), jnp.zeros(3, int)
    length = jnp.array([4])
    return {
        "attention": lambda: attention(X, X, X, causal=True, backend=name),
        "shared_prefix_attention": lambda: shared_prefix_attention(
            X[:, None], X, X, prefix_length=length, causal=True, backend=name
        ),
        "linear_log_prob": lambda: linear_log_prob(rows, weight, labels, backend=name),
    }


@pytest.mark.parametrize("name", ["pallas_tpu", "pallas_gpu", "cudnn", "triton"])
@pytest.mark.parametrize("operation", operations("xla"))
def test_a_processor_runs_xla_alone_and_says_why(operation, name):
    for free in ("auto", "xla"):
        operations(free)[operation]()
    with pytest.raises(ValueError) as caught:
        operations(name)[operation]()
    said = str(caught.value)
    assert operation in said and repr(name) in said
    if name == "triton":
        assert "is not one of auto, xla, pallas_tpu, pallas_gpu, cudnn" in said
    elif not (name == "cudnn" and operation != "attention"):
        assert f"needs a {'TPU' if name == 'pallas_tpu' else 'GPU'}, this program is for cpu" in said
    else:
        assert f"there is none for {operation}" in said


@pytest.mark.parametrize(("platform", "chosen"), [("cpu", "xla"), ("tpu", "pallas_tpu"), ("gpu", "cudnn")])
def test_auto_takes_what_the_platform_prefers(platform, chosen):
    with backend.tracing_for(platform):
        assert backend.choose("attention", "auto", FREE) == chosen
        assert backend.choose("attention", "xla", FREE) == "xla"


def test_auto_falls_back_to_xla_and_logs_the_reason_once(caplog, monkeypatch):
    monkeypatch.setattr(backend, "_LOGGED", set())
    refusing = {"pallas_tpu": lambda: "head width 300 is over 128"}
    with backend.tracing_for("tpu"), caplog.at_level(logging.INFO, "ar1_kernels.backend"):
        for _ in range(3):
            assert backend.choose("attention", "auto", refusing) == "xla"
        with pytest.raises(ValueError, match="pallas_tpu.*head width 300 is over 128.*'xla' runs everywhere"):
            backend.choose("attention", "pallas_tpu", refusing)
    (record,) = caplog.records
    assert "backend xla (pallas_tpu: head width 300 is over 128)" in record.getMessage()


def test_the_target_is_the_one_named_else_the_mesh_in_force_else_the_device():
    assert backend.target() == backend.Target("cpu", "cpu")
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert backend.target() == backend.Target("gpu", "NVIDIA H200")
        with backend.tracing_for("tpu", "TPU v4", interpret=True):
            assert backend.target() == backend.Target("tpu", "TPU v4", True)
    with pytest.raises(ValueError, match="platform='cuda' is not one of cpu, gpu, tpu"):
        with backend.tracing_for("cuda"):
            pass


def test_a_program_traced_for_one_target_is_not_taken_for_another():
    """The target is part of jit's key: the same function, called again inside `tracing_for`, is traced again."""
    seen = []
    run = jax.jit(lambda x: seen.append(backend.target().platform) or x)
    for _ in range(2):
        run(1.0)
        with backend.tracing_for("tpu"):
            run(1.0)
    assert seen == ["cpu", "tpu"]
