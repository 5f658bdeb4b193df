"""Packaging of AR1-JAX: the package, its kernels and its configuration files, one distribution.

`ar1_jax` lies beside this file, `ar1_kernels` under kernels/, and configs/ is shipped as `ar1_jax.configs`, so that an
installed copy finds `--config=rl` without a checkout. Versions are pinned in constraints.txt, not here."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent

REQUIRED = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "chex>=0.1.91",
    "numpy>=2.0",
    "ml-collections>=1.1",
    "absl-py>=2.3",
    "grain>=0.2.18",
    "array-record>=0.8",
    "pillow>=11",
    "safetensors>=0.6",
    "tokenizers>=0.22",
    "flatbuffers>=25",  # jax.export serialises with it and does not require it
    "matplotlib>=3.10",
    "jinja2>=3.1",
    "tqdm>=4.67",
]
QUANTIZE = ["qwix>=0.1.8"]  # needs jax, flax and numpy only
DATA = ["tensorflow-datasets>=4.9.10", "av>=14"]
EXTRAS = {
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "torch": ["torch==2.13.0", "transformers==4.57.1"],
    "data": DATA,
    "quantize": QUANTIZE,
    "dev": [
        "pytest>=9",
        "pytest-cov>=7",
        "pytest-xdist>=3.8",
        "hypothesis>=6.150",
        "ruff>=0.15",
        "nbformat>=5.10",
        "nbclient>=0.10",
        "ipykernel>=7",
        *DATA,
        *QUANTIZE,
    ],
}


def version() -> str:
    """The one place that states the version is ar1_jax/__init__.py; read, not imported."""
    text = (HERE / "ar1_jax" / "__init__.py").read_text()
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


packages = setuptools.find_packages(include=["ar1_jax", "ar1_jax.*"])
kernels = setuptools.find_packages("kernels", include=["ar1_kernels", "ar1_kernels.*"])
setuptools.setup(
    name="ar1-jax",
    version=version(),
    description="Alpamayo-R1 in JAX: a driving model that reasons before it plans, and its reinforcement learning",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*packages, *kernels, "ar1_jax.configs"],
    package_dir={
        "ar1_jax": "ar1_jax",
        "ar1_kernels": "kernels/ar1_kernels",
        "ar1_jax.configs": "configs",
    },
    package_data={
        "ar1_jax": [
            f"**/*.{end}" for end in ("json", "npz", "safetensors", "png", "jpg", "html", "css", "txt", "md")
        ]
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
