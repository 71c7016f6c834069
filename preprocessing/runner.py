"""Beam's own options: which runner executes the pipeline."""

from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, _BeamArgumentParser

from preprocessing.environment import available_cores
from preprocessing.errors import UserError

# Beam's `DirectRunner` first tries a runner whose program it downloads; this is the one it falls back to.
IN_MEMORY_RUNNER = "FnApiRunner"
_WORKER_FLAGS = ("--direct_running_mode", "--direct_num_workers")


def parse_beam_options(flags: Sequence[str], command: str = "preprocessing.task") -> PipelineOptions:
    """Builds Beam's options; the default is the runner of this process, with a thread for each core.

    Threads share the cores well, since Arrow and TensorFlow do not hold Python's lock; processes would first have to start
    and to import TensorFlow, once for each phase.

    Args:
      command: whose flags they are not, for the message.

    Raises:
      UserError: a flag is neither ours nor Beam's (Beam itself would ignore it).
    """
    parser = _BeamArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    for options in dict.fromkeys(PipelineOptions.__subclasses__()):
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise UserError(
            f"unknown argument {unknown[0]!r}: expected an option of {command} (see --help) or of Apache Beam; check the spelling"
        )
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        standard.runner = IN_MEMORY_RUNNER
        direct = options.view_as(DirectOptions)
        if not any(flag.startswith(_WORKER_FLAGS) for flag in flags) and available_cores() > 1:
            direct.direct_running_mode = "multi_threading"
            direct.direct_num_workers = available_cores()
    return options
