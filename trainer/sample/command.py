"""What `python -m trainer.sample` does: load, draw, compare, write."""

from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.sample.comparison import Tables, compare
from trainer.sample.drawing import draw_samples, load_sampler, nearest_rows, open_pretrained
from trainer.sample.report import FEWEST_COMPARED, Texts, write_report
from trainer.sample.request import Given, Request
from trainer.sample.values import FieldValues


def sample(data_dir: str | Path, model_dir: str | Path, request: Request) -> dict:
    """Draws samples from the best pre-trained checkpoint and writes `model_dir/report/samples/`.

    Real rows are those of the split that have what is given. As many of them as samples are compared with the samples and
    with as many others, so with fewer than twice as many, fewer are compared; with fewer than 200, none. Lists that are not
    given are those of the same rows, or where there are none, of the rows that have most of what is given.

    Returns:
      What metrics.json holds: the request, and the measures of `trainer.sample.comparison.compare` under "comparison".

    Raises:
      UserError: no pre-trained checkpoint, other data, or a request that cannot be met.
    """
    if request.samples < 1:
        raise UserError(f"--samples: expected at least 1, received {request.samples}")
    if request.seed < 0:
        raise UserError(f"--seed: expected 0 or more, received {request.seed}")
    model_dir = Path(model_dir)
    data, config, checkpoint = open_pretrained(data_dir, model_dir)
    has_label = config.diffusion.label == "token"
    if request.label is not None and not has_label:
        raise UserError("--given_label: the model was pre-trained with `diffusion.label: absent`, so it knows no label: leave the flag out")
    values = FieldValues(data.schema, data.path)
    given = Given.parse(request.given, request.label, data, values)
    sampler = load_sampler(data, config, checkpoint, request.steps)
    if unread := sampler.unread(given.ids):
        raise UserError(f"--given fixes {', '.join(unread)} to a value that the model reads as masked (`model.unknown: mask`), so nothing would "
                        "follow from it: give a more frequent value, or leave the field out")
    real, are_comparable = nearest_rows(data, config.input, request.split, given, 2 * request.samples, request.seed, sampler.knows)
    origin = _origin_of_lists(data.schema, given, request, len(real), are_comparable)
    if origin:
        print(f"sample: lists are not drawn: {origin}", flush=True)
    generated = draw_samples(sampler, data.schema, given, real, request.samples, request.seed)

    rows_found = len(real) if are_comparable else 0
    rows = min(len(generated), rows_found // 2)
    comparison = None
    if rows >= FEWEST_COMPARED:
        names = [field.name for field in data.schema.id_fields] + [data.schema.label.column] * has_label
        # The samples have the lists of the first half, so that neither they nor these share any with the second.
        tables = Tables(tuple(names), *(table[:, :len(names)] for table in (
            generated.table[:rows], real.table[rows:2 * rows], real.table[:rows])))
        print(f"sample: comparing {rows:,} samples with {rows:,} rows of the {request.split} split", flush=True)
        comparison = compare(tables, with_label=has_label and request.label is None, seed=request.seed)
    texts = Texts(data, values, has_label, masks_unknown=config.model.unknown == "mask")
    return write_report(model_dir / "report" / "samples", texts, request, generated, comparison, rows_found, origin)


def _origin_of_lists(schema: Schema, given: Given, request: Request, rows: int, are_comparable: bool) -> str:
    """From which `rows` real rows samples have their lists; empty where they have none, or all are given."""
    names = [field.name for field in schema.list_fields if field.name not in given.lists]
    if not names:
        return ""
    nearness = "have what is given" if are_comparable else "come closest to what is given, as none to compare with has all of it"
    return (f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} taken from those rows of the {request.split} split "
            f"({min(rows, request.samples):,}) that {nearness}")
