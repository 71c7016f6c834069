"""What the parts of a loss are called: in history, on TensorBoard and on the console."""

LOSS = "loss"  # the whole
CLICK = "click"  # the click loss of fine-tuning, where it is one of several parts
LABEL = "label"  # the diffusion loss of the label
FIELD = "field/"  # before the name of a field, which may be "loss", too
