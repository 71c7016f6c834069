"""A guessed schema as YAML with comments: what was seen of each column, and why it was taken for what it is."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import yaml

from preprocessing.infer.fields import ColumnGuess, percent
from preprocessing.infer.guess import Guess, SplitGuess, microseconds_to_iso
from preprocessing.infer.profile import LISTED
from preprocessing.infer.trial import Trial
from preprocessing.schema import SPLITS

_WIDTH = 118
_EXAMPLES = 3
_LONGEST_EXAMPLE = 24
_ABSENT = {
    "group": "no column is named like a user or a session; the column within which GAUC should rank",
    "timestamp": "no column of event times was found, or it has missing times",
}


def render(head: dict[str, Any], guess: Guess, split: SplitGuess, trial: Trial, opening: Iterable[str],
           command: str) -> str:
    """Writes the schema.

    Args:
      head: the keys before `missing`: the schema's name and how its files are written.
      split: the chosen one of the guesses; trial: what becomes of the sample under the schema.
      opening: the paragraphs of the comment at the top; under them stands `command`, what to run next.
    """
    content = head | guess.content(split)
    lines = [line for paragraph in opening for line in _comment(paragraph)]
    lines += [f"#     {_printable(command)}"]
    for key, value in content.items():
        if key == "fields":
            continue
        notes = _notes(key, guess, split, trial)
        lines += ["", *(line for note in notes for line in _comment(note))] if notes else []
        lines.append(f"{key}: {_flow(value)}")
    for key in ("group", "timestamp"):
        if key not in content:
            lines += ["", *_comment(f"{key}: {_ABSENT[key]}")]
    lines += ["", "fields:"]
    for one in guess.fields:
        lines += [*_comment(_seen(one), "  "), f"  - {_flow(one.entry)}"]
    left_out = [one for one in guess.columns if one.left_out]
    if left_out:
        lines += ["", *_comment("Left out of `fields`. To use one after all, take the # from its line with a dash.", "  ")]
    for one in left_out:
        lines += _comment(f"{_name(one)}: LEFT OUT: {one.left_out}. {_facts(one)}", "  ")
        if one.entry and one.profile.name:
            lines.append(f"  # - {_flow(one.entry)}")
    return "\n".join(lines) + "\n"


def _notes(key: str, guess: Guess, split: SplitGuess, trial: Trial) -> list[str]:
    """What the comment above a key of the schema says."""
    if key == "missing":
        found = [f"{text!r} in {', '.join(columns[:5])}" + " and others" * (len(columns) > 5)
                 for text, columns in guess.missing.items()]
        return ["Texts that mean no value in any column, beside the empty one: " + "; ".join(found)]
    if key == "label":
        label = guess.label
        labelled = label.values >= 0
        without = 1 - labelled.mean()
        doubt = "" if label.sure else " Neither text says which of them is a click: the rarer one is assumed; CHECK."
        unlabelled = f", {without:.1%} without label" if without else ""
        return [f"{label.values[labelled].mean():.2%} clicks{unlabelled}.{doubt}"]
    if key == "group":
        return ["The column within which GAUC ranks."]
    if key == "timestamp":
        first, last = (microseconds_to_iso(limit(guess.time.values)) for limit in (np.nanmin, np.nanmax))
        stamps = "counts from a zero of its own" if guess.time.from_zero else f"{first} to {last} in the sample"
        return [f"Event time: {stamps}. Kept in the records, not a feature."]
    if key == "key":
        return ["Identifies the row: kept in the records as text, not a feature."]
    if key == "split":
        return [f"Split: {split.reason}.", *_shares(trial, split)]
    return []


def _shares(trial: Trial, split: SplitGuess) -> list[str]:
    """How the sample is split; a sample of files cannot tell how large the files are."""
    if split.content["by"] == "files":
        return []
    shares = [f"{name} {rows:,} rows ({clicks:,} clicks)"
              for name, rows, clicks in zip(SPLITS, trial.rows, trial.clicks, strict=True)]
    return [f"In the sample: {', '.join(shares)}.{'' if all(trial.rows) else ' A split without rows is an error: CHECK.'}"]


def _seen(one: ColumnGuess) -> str:
    return ". ".join([f"{_name(one)}: {_facts(one)}", *(_sentence(note) for note in one.notes)])


def _name(one: ColumnGuess) -> str:
    return one.profile.name if one.entry is None or one.entry["name"] == one.profile.name else repr(one.profile.name)


def _facts(one: ColumnGuess) -> str:
    profile = one.profile
    missing = f"{percent(profile.missing_share)} missing" if profile.missing_share else "none missing"
    if not profile.distinct:
        return missing
    if one.entry and one.entry["kind"] == "vector":
        return f"{one.entry['size']} numbers a cell, {missing}"
    top = f"most frequent {_shown(profile.values[0].as_py())} ({percent(profile.top_share)})"
    facts = [f"{profile.distinct:,} different", missing, top]
    if one.entry and one.entry["kind"] == "numeric" and len(profile.finite):
        facts.append(f"from {profile.finite.min():.10g} to {profile.finite.max():.10g}, median {profile.median:.10g}")
    elif profile.distinct > 1:
        facts.append("such as " + ", ".join(_shown(text) for text in profile.values[1:1 + _EXAMPLES].to_pylist()))
    return ", ".join(facts)


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]


def _shown(text: str) -> str:
    text = text.replace(LISTED, "|")
    return repr(text if len(text) <= _LONGEST_EXAMPLE else text[:_LONGEST_EXAMPLE - 3] + "...")


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """`text` as the lines of a comment."""
    yield from textwrap.wrap(_printable(text), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ",
                             break_long_words=False, break_on_hyphens=False)


def _printable(text: str) -> str:
    """`text` on one line, with an escape for what YAML does not allow even in comments."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _flow(value: Any) -> str:
    """A value of YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
