"""Discriminative click models beside DGenCTR, trained by the same loop: `model.kind` of the configuration names one.

A network maps the embeddings [B, F, w] of a sample's features to its click logit [B]. There is no label token, no mask and no
pre-training. Dropout is drawn from `seed`, int [2], and left out where there is none; `training` chooses the moments of batch
normalisation.
"""

from preprocessing.schema import Schema
from trainer.baselines.dense import DcnV2, Mlp
from trainer.baselines.finalmlp import FinalMlp
from trainer.baselines.linear import DeepFm, FactorizationMachine, LogisticRegression
from trainer.baselines.network import ClickNetwork
from trainer.config import Config

NETWORKS = {"lr": LogisticRegression, "fm": FactorizationMachine, "deepfm": DeepFm, "dcn_v2": DcnV2, "finalmlp": FinalMlp, "mlp": Mlp}


def build_network(schema: Schema, config: Config, click_rate: float) -> ClickNetwork:
    """The network that `model.kind` names."""
    return NETWORKS[config.model.kind](schema, config, click_rate, name="network")
