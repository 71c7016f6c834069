"""Files of a log, whatever their format, to Arrow record batches and the rows that could not be read."""

from preprocessing.sources.files import column_names, expand, find_files, pieces_of, read
from preprocessing.sources.layout import Batch, Descriptor, Layout, Rejection

__all__ = ["Batch", "Descriptor", "Layout", "Rejection", "column_names", "expand", "find_files", "pieces_of", "read"]
