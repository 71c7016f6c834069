"""Export to a SavedModel, the embedded model server and its client."""

from preprocessing.environment import require

require()
del require
