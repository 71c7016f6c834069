"""FuxiCTR's DCN-V2 in PyTorch, its batches in memory. Runs in any interpreter that has `torch` and `fuxictr`.

FuxiCTR's repository holds the model beside the package; the package holds its parts and its training step, so the model
is put together here as `model_zoo/DCNv2` of version 2.3 does ("parallel").
"""

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

from benchmarks.speed.network import CROSS_LAYERS, DIM, GRADIENT_NORM, HIDDEN_UNITS, LEARNING_RATE

LABEL = "label"


class ParallelDcn(BaseModel):
    """Crosses beside a tower with batch norm, on the fields' embeddings."""

    def __init__(self, feature_map: FeatureMap, dropout: float):
        super().__init__(feature_map, verbose=0, model_root=".", metrics=["AUC"])
        width = feature_map.num_fields * DIM
        self.embedding_layer = FeatureEmbedding(feature_map, DIM)
        self.crossnet = CrossNetV2(width, CROSS_LAYERS)
        self.parallel_dnn = MLP_Block(input_dim=width, hidden_units=list(HIDDEN_UNITS), dropout_rates=dropout, batch_norm=True)
        self.fc = torch.nn.Linear(width + HIDDEN_UNITS[-1], 1)
        self.compile("adam", "binary_crossentropy", LEARNING_RATE)
        self.reset_parameters()
        self._max_gradient_norm = GRADIENT_NORM

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        start = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        both = torch.cat([self.crossnet(start), self.parallel_dnn(start)], dim=-1)
        return {"y_pred": self.output_activation(self.fc(both))}


def _feature_map(field_rows: np.ndarray) -> FeatureMap:
    features = FeatureMap("training_speed", ".")
    features.features = OrderedDict(
        (f"field_{number:02d}", {"type": "categorical", "source": "", "vocab_size": int(rows)})
        for number, rows in enumerate(field_rows, 1))
    features.labels = [LABEL]
    features.num_fields = features.get_num_fields()
    return features


def _batches(folder: Path, names: list[str], batch_size: int) -> list[dict[str, torch.Tensor]]:
    ids, labels = (np.load(folder / "arrays" / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels"))
    batches = []
    for first in range(0, len(ids) - batch_size + 1, batch_size):
        columns = torch.from_numpy(ids[first:first + batch_size].T.astype(np.int64))  # (N, B)
        label = torch.from_numpy(labels[first:first + batch_size].copy())
        batches.append({**dict(zip(names, columns, strict=True)), LABEL: label})
    return batches


def build(options: argparse.Namespace) -> Callable[[int], dict]:
    torch.set_num_threads(os.cpu_count())
    features = _feature_map(np.load(options.folder / "arrays" / "field_rows.npy"))
    model = ParallelDcn(features, options.dropout)
    model.train()
    batches = cycle(_batches(options.folder, list(features.features), options.batch_size))

    def run(steps: int) -> dict:
        for batch in islice(batches, steps):
            loss = model.train_step(batch).item()
        return {"steps": steps, "loss": loss}

    return run
