"""Raw click logs to vocabularies, TFRecords and the transform graph."""

from preprocessing.environment import require

require()
del require
