"""Typed settings from YAML files: read safely, checked by pydantic, refused in a sentence that names file and key."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from preprocessing.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty for an empty file. `what` names the kind of file in errors."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} file {path} does not exist: give the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not YAML: {' '.join(str(error).split())}") from error
    return require_mapping({} if content is None else content, f"{what} {path}")


def require_mapping(content: Any, origin: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{origin}: expected a mapping of keys to values, received {type(content).__name__}")
    return content


def validate(model: type[Model], content: dict[str, Any], origin: str) -> Model:
    """Builds `model` from parsed YAML, or raises a `UserError` that names `origin` and every wrong key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{origin}: {_describe(error)}") from error


def _describe(error: ValidationError) -> str:
    """One readable clause per problem: where it is, what is wrong, what was received."""
    clauses = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "the whole"
        received = problem.get("input")
        shown = "" if isinstance(received, dict | list) else f" (received {received!r})"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] == "union_tag_not_found":
            message = f"needs the key {problem['ctx']['discriminator']}"
        clauses.append(f"{place}: {message}{shown}")
    return "; ".join(clauses)
