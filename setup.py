"""Installs the libraries `crab_jax` and `data_pipelines` and the command `crab`."""

from setuptools import find_packages, setup

setup(
    name="crab_jax",
    version="0.1.0",
    description="Crab in JAX: one model that hears and sees at once, and says what, when, where, and which pixels",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["crab_jax", "crab_jax.*", "data_pipelines", "data_pipelines.*"]),
    package_data={
        "crab_jax": [
            "**/*.json",
            "**/*.npz",
            "**/*.model",
            "**/*.safetensors",
            "evaluate/report/templates/*",
        ],
        "data_pipelines": ["*.css"],
    },
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.13",
        "orbax-checkpoint>=0.12.8,<0.13",
        "ml_collections>=1.1,<2",
        "optax>=0.2.8,<0.3",
        "tensorboardX>=2.6.5,<3",
        "ml_dtypes>=0.5",
        "numpy>=2.0",
        "einops>=0.8,<1",
        "librosa>=0.11,<0.12",
        "soundfile>=0.13",
        "scipy>=1.13",
        "scikit-learn>=1.5",
        "soxr>=0.5",  # librosa's resampler
        "av>=14.1,<19",
        "pillow>=11",
        "sentencepiece>=0.2,<0.3",
        "safetensors>=0.4.3",
        "array_record>=0.8,<0.9",
        "grain>=0.2.18,<0.3",
        "absl-py>=2",  # Grain's flags
        "protobuf>=5",
        "tensorflow-datasets>=4.9.10,<4.10",
        "importlib_resources>=6",  # tensorflow-datasets needs it for builders inside packages and does not say so
        "tqdm>=4.66",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.13"],
        # torch and transformers are second implementations to compare with; nothing imports them outside tests.
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "psutil>=5.9",
            "ruff>=0.6",
            "torch>=2.2",
            "transformers>=4.40",
        ],
    },
    entry_points={"console_scripts": ["crab=crab_jax.cli:main"]},
)
