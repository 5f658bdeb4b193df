"""JSON for the state of a loop: besides plain values arrays, NumPy scalars, bytes and random keys, exactly.

Each of those is an object with one key that starts with '$': {"$array": [dtype, shape, base64]}, {"$bytes": base64},
{"$key": [implementation, words]}."""

import base64
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def dumps(value: Any) -> str:
    """Value -> text; TypeError names a type that has no form here."""
    return json.dumps(value, indent=1, default=encode)


def loads(text: str) -> Any:
    """The inverse of dumps: tuples come back as lists, arrays as NumPy arrays, keys as typed JAX keys."""
    return json.loads(text, object_hook=decode)


def encode(value: Any) -> Any:
    """One value that JSON does not know -> its object; for json.dumps(default=)."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"$key": [str(jax.random.key_impl(value)), np.asarray(jax.random.key_data(value))]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return {"$array": [array.dtype.name, array.shape, base64.b64encode(array.tobytes()).decode()]}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def decode(value: dict[str, Any]) -> Any:
    """The inverse of encode on every object; for json.loads(object_hook=)."""
    if len(value) != 1:
        return value
    [(kind, content)] = value.items()
    if kind == "$bytes":
        return base64.b64decode(content)
    if kind == "$key":
        return jax.random.wrap_key_data(jnp.asarray(content[1]), impl=content[0])
    if kind == "$array":
        name, shape, data = content
        return np.frombuffer(base64.b64decode(data), jnp.dtype(name)).reshape(shape).copy()
    return value
