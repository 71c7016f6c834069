"""Beam's own options: which runner executes the pipeline."""

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser

from preprocessing.errors import UserError

# Beam's `DirectRunner` first tries a runner whose program it downloads; this is the one it falls back to.
IN_MEMORY_RUNNER = "FnApiRunner"


def parse_beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Builds Beam's options; the default runner is the in-memory one.

    Raises:
      UserError: a flag is neither ours nor Beam's (Beam itself would ignore it).
    """
    parser = _BeamArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    for options in dict.fromkeys(PipelineOptions.__subclasses__()):
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise UserError(
            f"unknown argument {unknown[0]!r}: expected an option of preprocessing.task (see --help) or of Apache "
            "Beam; check the spelling"
        )
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        standard.runner = IN_MEMORY_RUNNER
    return options
