"""From the pre-trained checkpoint to the model that is fine-tuned: which variables are loaded."""

from pathlib import Path
from typing import Literal

from trainer.checkpoints import restore_model
from trainer.click_model import ClickModel
from trainer.distribute.replicas import shards
from trainer.map_pretraining import HEADS
from trainer.progress import print_table

Transfer = Literal["all", "embeddings", "scorer"]


def transfer(model: ClickModel, pretrained: Path, what: Transfer, objective: str = "diffusion") -> None:
    """Loads variables of a pre-trained checkpoint; the others keep their random start.

        all          every variable
        embeddings   the embedding layer: the table, and the embeddings of masks, fields and the label
        scorer       the network that scores: every variable but the table

    A pre-training by one of MAP's objectives has trained embedding layer and backbone only, so of these alone is loaded: the
    scoring functions start anew whatever `what` is, and MAP's heads are dropped.

    Args:
      model: of stage "finetune".
      pretrained: a checkpoint.
      what: which variables are loaded.
      objective: `pretrain.objective` of the checkpoint's configuration.

    Raises:
      UserError: the checkpoint is damaged, or its variables are not the model's, whether they are to be loaded or not; each
        missing one is named.
    """
    parts = (model.embedding.name,) if what == "embeddings" else tuple(part.name for part in model.parts)
    if objective != "diffusion":
        parts = tuple(name for name in parts if name in (model.embedding.name, model.backbone.name))
    names = {name: variable for name, variable in model.named_variables().items() if _part_of(name) in parts}
    if what == "scorer":
        names = {name: variable for name, variable in names.items() if variable is not model.embedding.table}
    parameters = restore_model(model, pretrained, chosen=names.__contains__, left_behind=f"{HEADS}:")
    _report(model, pretrained, parameters, set(names))


def _part_of(name: str) -> str:
    return name.split(":")[0]


def _report(model: ClickModel, pretrained: Path, parameters: int, loaded: set[str]) -> None:
    rows = []
    for part in model.parts:
        variables = {name: variable for name, variable in model.named_variables().items() if _part_of(name) == part.name}
        counts = {name: len(shards(variable)) for name, variable in variables.items()}
        chosen = variables.keys() & loaded
        size = sum(variables[name].shape.num_elements() for name in chosen)
        rows.append((part.name, f"{sum(counts[name] for name in chosen)} of {sum(counts.values())}", f"{size:,}"))
    everything = "all " if len(loaded) == len(model.named_variables()) else ""
    print_table(f"transferred {everything}{parameters:,} parameters of {pretrained}", rows, ("part", "variables", "parameters"))
