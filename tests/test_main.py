"""The command line. The reference: what a user types and the exit codes of the contract (0, 1, 2, 143)."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

import ar1_jax.verbs
from ar1_jax import main
from ar1_jax.core import config, errors

VERB = '''"""Does what its key says."""
from ar1_jax.core import errors

def run(config):
    if config.do == "fail":
        raise errors.CheckFailed("the figures differ")
    if config.do == "scene":
        raise errors.SceneError("scene.json: history has 15 rows, expected 16")
    if config.do == "missing":
        open("/no/such/file")
    if config.do == "kernels":
        import jax
        import jax.numpy as jnp
        from ar1_kernels import attention
        jax.jit(lambda x: attention(x, x, x, causal=True, backend="pallas_tpu"))(jnp.zeros((1, 4, 1, 8)))
    if config.do == "bug":
        raise ZeroDivisionError
    print("did", config.do, config.steps)
    return 143 if config.do == "stop" else None
'''
CONFIG = """
import ml_collections
def get_config(argument=None):
    return ml_collections.ConfigDict({"do": argument or "work", "steps": 3})
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A verb named job beside the real ones, and the path of its configuration."""
    (tmp_path / "verbs").mkdir()
    (tmp_path / "verbs" / "job.py").write_text(VERB)
    (tmp_path / "job.py").write_text(CONFIG)
    monkeypatch.setattr(ar1_jax.verbs, "__path__", [*ar1_jax.verbs.__path__, str(tmp_path / "verbs")])
    monkeypatch.delitem(sys.modules, "ar1_jax.verbs.job", raising=False)
    return f"--config={tmp_path / 'job.py'}"


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [
        ("", 0, "did work 5"),
        (":stop", 143, "did stop 5"),
        (":fail", 1, "error: the figures differ"),
        (":scene", 2, "error: scene.json: history has 15 rows, expected 16"),
        (
            ":kernels",
            2,
            "error: config.kernels: attention: backend='pallas_tpu': it needs a TPU, this program is for cpu; "
            "backend='xla' runs everywhere",
        ),
        (":missing", 2, "error: [Errno 2] No such file or directory: '/no/such/file'"),
    ],
)
def test_exit_codes_and_one_message(job, capsys, argument, code, text):
    assert main.main([job + argument, "--config.steps=5"]) == code
    out, err = capsys.readouterr()
    assert text in (out if code in (0, 143) else err).splitlines()
    assert "Traceback" not in err


def test_debug_shows_the_traceback_and_a_bug_always_does(job):
    with pytest.raises(errors.SceneError):
        main.main([job + ":scene", "--debug"])
    with pytest.raises(ZeroDivisionError):
        main.main([job + ":bug"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--config.steps=x"], "--config.steps=x: expected int (default 3)"),
        (["--config.step=1"], 'unknown key (did you mean "steps"?)'),
        (["--confg=rl"], 'did you mean "--config"?'),
        (["--config.steps"], "a value is missing"),
        (["stray"], "stray: unknown"),
    ],
)
def test_wrong_words_are_refused(job, capsys, words, text):
    assert main.main([job, *words]) == 2
    assert text in capsys.readouterr().err


def test_a_configuration_without_verb_names_the_verbs(tmp_path, capsys):
    (tmp_path / "no_such_verb.py").write_text(CONFIG)
    assert main.main([f"--config={tmp_path / 'no_such_verb.py'}"]) == 2
    assert "no verb no_such_verb" in capsys.readouterr().err


def test_help_lists_keys_and_verbs(job, capsys):
    assert main.main([job, "--config.steps", "7", "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  --config.do    = 'work'", "  --config.steps = 7"]
    assert main.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, line in main.verbs().items():
        assert f"  {name}" in listed and line in listed and line
    assert main.main([]) == 2


def test_every_verb_has_a_configuration_and_the_other_way_round():
    assert set(main.verbs()) == set(config.packaged()) - {"models"}  # the sizes, which other files name


def test_compiled_programs_are_kept_where_the_user_says(tmp_path, monkeypatch, capsys):
    before = jax.config.jax_compilation_cache_dir
    try:
        monkeypatch.setenv("AR1_JAX_CACHE", str(tmp_path / "cache"))
        folder = main.use_compile_cache()
        assert folder.is_dir() and folder.parent == tmp_path / "cache"
        assert jax.config.jax_compilation_cache_dir == str(folder)
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("AR1_JAX_CACHE", "off")
        assert main.use_compile_cache() is None and jax.config.jax_compilation_cache_dir is None
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("AR1_JAX_CACHE", str(tmp_path / "file"))
        assert main.use_compile_cache() is None and "compile cache off" in capsys.readouterr().err
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_as_a_process_it_ends_with_the_code_and_no_traceback():
    root = pathlib.Path(__file__).parents[1]
    words = [sys.executable, "-m", "ar1_jax.main", "--config=no_such_verb"]
    found = subprocess.run(
        words, cwd=root, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: --config: unknown 'no_such_verb'")
    assert len(found.stderr.splitlines()) == 1
