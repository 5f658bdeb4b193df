"""Sharding by tables: parameter path pattern -> PartitionSpec, activation name -> PartitionSpec, and one mesh.

Mesh axes: data (copies), fsdp (parameters cut, batch too), tensor (heads and widths cut). Patterns are regular
expressions over the whole path, first match wins. A parameter that no pattern matches, a pattern that nothing needs
and a dimension that its axes do not divide are raised together. The model's own tables are in sharding_tables.py."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ar1_jax.core import errors, trees

AXES = ("data", "fsdp", "tensor")
Table = Sequence[tuple[str, P]]


def mesh_shape(num_devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1) -> tuple[int, int, int]:
    """Sizes of the three axes, of which at most one is -1 and takes what is left; ShardingError if they do not fit."""
    sizes = dict(zip(AXES, (data, fsdp, tensor)))
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    fits = len(free) <= 1 and known > 0 and all(s > 0 or s == -1 for s in sizes.values())
    if fits and free:
        sizes[free[0]] = num_devices // known
    if not fits or math.prod(sizes.values()) != num_devices:
        raise errors.ShardingError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {num_devices} devices: the product must be "
            f"{num_devices}, and at most one size -1 (whatever is left)"
        )
    return tuple(sizes.values())


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh of the given devices (all by default), axes in Auto mode: the compiler decides where nothing is said."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(len(devices), data, fsdp, tensor)
    return jax.make_mesh(shape, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    """A mesh of devices that are not here: for shapes, sharding checks and lowering."""
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def specs(params: Any, table: Table, mesh: Mesh | AbstractMesh | None = None, optional: bool = False) -> Any:
    """Tree like `params` (arrays or shapes) with a PartitionSpec at every leaf.

    Raises ShardingError naming every parameter without pattern, every pattern that no parameter needed (unless
    `optional`, for a tree that is only a part), every spec longer than its array, and, with a mesh, every dimension
    that its axes do not divide."""
    flat, used, problems, found = trees.flatten(params), set(), [], {}
    for path, leaf in flat.items():
        row = next((i for i, (pattern, _) in enumerate(table) if trees.matches(pattern, path)), None)
        if row is None:
            problems.append(f"{path} {list(leaf.shape)}: no pattern matches")
            continue
        used.add(row)
        found[path] = table[row][1]
        problems += misfits(path, leaf.shape, table[row][1], mesh)
    if not optional:
        problems += [
            f"pattern {p!r}: matches no parameter" for i, (p, _) in enumerate(table) if i not in used
        ]
    errors.raise_all(problems, "sharding of parameters", errors.ShardingError)
    return trees.unflatten(params, found)


def misfits(name: str, shape: Sequence[int], spec: P, mesh: Mesh | AbstractMesh | None) -> list[str]:
    """What is wrong with laying an array of `shape` out by `spec`, one line each; [] if nothing."""
    if len(spec) > len(shape):
        return [f"{name} {list(shape)}: spec {spec} has {len(spec)} entries"]
    sizes = mesh.shape if mesh is not None else {}
    lines = []
    for dim, (size, axes) in enumerate(zip(shape, spec)):
        names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
        if unknown := [n for n in names if n not in AXES]:
            lines.append(
                f"{name}: spec {spec} names unknown axes {', '.join(unknown)}; there are {', '.join(AXES)}"
            )
        ways = math.prod(sizes.get(n, 1) for n in names)
        if size % ways:
            lines.append(
                f"{name} {list(shape)}: dimension {dim} = {size} is not divided by {'*'.join(names)} = {ways}"
            )
    return lines


def mirror(tree: Any, params: Any, param_specs: Any) -> Any:
    """Specs for any tree that holds mirrors of the parameters (optimiser state, gradients, EMA): a leaf whose path ends
    with a parameter's path and that has its shape gets that spec, everything else (counters, factored moments) P()."""
    shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
    table = trees.flatten(param_specs, is_leaf=lambda x: isinstance(x, P))

    def spec_of(path: str, leaf: Any) -> P:
        parts = path.split(trees.SEPARATOR)
        tails = (trees.SEPARATOR.join(parts[i:]) for i in range(len(parts)))  # longest first
        name = next((t for t in tails if t in shapes), None)
        return table[name] if name is not None and tuple(leaf.shape) == tuple(shapes[name]) else P()

    return trees.map_with_path(spec_of, tree)


def shardings(spec_tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """PartitionSpecs -> NamedShardings on `mesh`."""
    return jax.tree.map(lambda s: NamedSharding(mesh, s), spec_tree, is_leaf=lambda x: isinstance(x, P))


def shard_tree(
    tree: Any, params: Any, table: Table, mesh: Mesh | AbstractMesh, optional: bool = False
) -> Any:
    """Lays out `tree` (the parameters themselves or anything that mirrors them) by the parameters' table.

    Arrays are moved; abstract leaves (jax.ShapeDtypeStruct) get a sharding. Raises ShardingError as `specs` does."""
    placed = shardings(mirror(tree, params, specs(params, table, mesh, optional)), mesh)

    def place(leaf: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(place, tree, placed)


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Programs traced inside run their kernels on `mesh`, each device its part (`ar1_kernels.sharded`).

    None or one device: nothing changes."""
    return contextlib.nullcontext() if mesh is None or mesh.size == 1 else jax.set_mesh(mesh)


def constrain(x: jax.Array, name: str, table: Mapping[str, P]) -> jax.Array:
    """Tells the compiler how activation `name` lies, inside `with jax.set_mesh(mesh)`; without a mesh it is `x` itself.

    Raises ShardingError for a name that the table lacks or a dimension that its axes do not divide."""
    spec = table[errors.one_of(name, table, "activation", errors.ShardingError)]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    errors.raise_all(misfits(name, x.shape, spec, mesh), "sharding of activations", errors.ShardingError)
    return jax.lax.with_sharding_constraint(x, spec)
