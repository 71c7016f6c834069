"""A suite file: what is compared with what, on which data."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic import Field as Setting

from preprocessing.datasets import RECIPES
from preprocessing.errors import UserError
from preprocessing.settings import read_mapping, validate

REPOSITORY = Path(__file__).resolve().parents[2]
SUITES = REPOSITORY / "benchmarks" / "suites"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Strict):
    """One way of training.

    Attributes:
      stages: [pretrain, finetune], or [finetune]: from scratch.
      config: a configuration file of its own, from the project's folder, instead of the suite's.
      set: settings `a.b=c` on top of the configuration and of the suite's `set`.
      pretrained_by: the arm whose pre-training it starts from. Arms whose settings of pre-training are equal share it anyway.
      note: a sentence for the page.
    """

    stages: tuple[Literal["pretrain", "finetune"], ...] = ("pretrain", "finetune")
    config: str | None = None
    set: tuple[str, ...] = ()
    pretrained_by: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _stages_make_sense(self) -> "Arm":
        if self.stages not in (("finetune",), ("pretrain", "finetune")):
            raise ValueError("stages must be [pretrain, finetune], or [finetune] to train from scratch")
        if self.pretrained_by and not self.is_pretrained:
            raise ValueError("pretrained_by has no effect with stages [finetune], which train from scratch")
        return self

    @property
    def is_pretrained(self) -> bool:
        return "pretrain" in self.stages


class Section(_Strict):
    """A table of the page.

    Attributes:
      controls: arms that those of the table are compared with; by default the suite's.
    """

    title: str
    text: str = ""
    arms: tuple[str, ...] = Setting(min_length=1)
    controls: tuple[str, ...] = Setting((), max_length=2)


class Point(_Strict):
    """A value of a curve's setting, and settings that go with it for every arm."""

    value: float
    set: tuple[str, ...] = ()


class Curve(_Strict):
    """Arms at several values of a setting, such as the share of the training labels.

    Attributes:
      axis: what the setting is, for the plot.
      arms: the first is the control of the others, at the same point.
    """

    title: str
    axis: str
    setting: str
    points: tuple[Point, ...] = Setting(min_length=2)
    arms: tuple[str, ...] = Setting(min_length=1)

    @field_validator("points")
    @classmethod
    def _points_ascend(cls, points: tuple[Point, ...]) -> tuple[Point, ...]:
        values = [point.value for point in points]
        if values != sorted(set(values)):
            raise ValueError(f"values must ascend, received {values}")
        return points

    def arm_at(self, arm: str, point: Point) -> str:
        """The name of an arm at a point."""
        return f"{arm} @ {self.setting.rpartition('.')[2]} {point.value:g}"


class Slices(_Strict):
    """Fields by whose values' training occurrences metrics are shown, and of which arms; the first is their control."""

    fields: tuple[str, ...] = Setting(min_length=1)
    arms: tuple[str, ...] = Setting(min_length=1)


class Suite(_Strict):
    """Arms to compare on one data set.

    Attributes:
      dataset: a recipe of `preprocessing.task --dataset`.
      config: the configuration file of all arms, from the project's folder.
      set: settings of all arms.
      controls: arms that the others are compared with, each in a column of its own.
      about: Markdown for the top of the page.
      sections: tables; by default one, of the arms that are in no curve. An arm that is in curves only runs at their points.
      learning_curves: arms whose validation AUC is drawn against their passes.
      seeds: seeds 1 to so many.
    """

    title: str
    dataset: str
    config: str
    set: tuple[str, ...] = ()
    controls: tuple[str, ...] = Setting(min_length=1, max_length=2)
    about: str = ""
    arms: dict[str, Arm] = Setting(min_length=1)
    sections: tuple[Section, ...] = ()
    curves: tuple[Curve, ...] = ()
    slices: Slices | None = None
    learning_curves: tuple[str, ...] = ()
    seeds: int = Setting(5, ge=1)

    @property
    def sliced_by(self) -> tuple[str, ...]:
        return self.slices.fields if self.slices else ()

    @property
    def tables(self) -> tuple[Section, ...]:
        """The sections, or what stands for them."""
        in_curves = {arm for curve in self.curves for arm in curve.arms}
        rest = tuple(arm for arm in self.arms if arm not in in_curves)
        return self.sections or ((Section(title="All arms", arms=rest),) if rest else ())

    def run_names(self) -> tuple[str, ...]:
        """The names of the arms that run: those of the tables, and those of the curves at each point."""
        in_tables = [name for table in self.tables for name in table.arms]
        at_points = [curve.arm_at(name, point) for curve in self.curves for point in curve.points for name in curve.arms]
        return tuple(dict.fromkeys([*in_tables, *at_points]))

    def all_arms(self) -> dict[str, Arm]:
        """Every arm, as it is and at each point of each curve, by name."""
        arms = dict(self.arms)
        for curve in self.curves:
            for point in curve.points:
                for name, arm in self.arms.items():
                    at_point = {"set": (*arm.set, *point.set, f"{curve.setting}={point.value:g}"),
                                "pretrained_by": arm.pretrained_by and curve.arm_at(arm.pretrained_by, point)}
                    arms[curve.arm_at(name, point)] = arm.model_copy(update=at_point)
        return arms


def suite_path(name: str) -> Path:
    """The file of a suite: one of benchmarks/suites by its name, or any by its path."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = SUITES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in SUITES.glob("*.yaml"))
        raise UserError(f"suite {name!r} is unknown: choose one of {known}, or give the path of a .yaml file")
    return path


def load_suite(path: Path) -> Suite:
    """Reads a suite file.

    Raises:
      UserError: a key is unknown, a value is wrong, or an arm, data set or file that it names does not exist.
    """
    origin = f"suite {path}"
    suite = validate(Suite, _with_title(read_mapping(path, "suite"), path), origin)
    _require_known(suite.arms, _mentioned_arms(suite), f"{origin}: ", "arm")
    if suite.dataset not in RECIPES:
        raise UserError(f"{origin}: dataset: {suite.dataset!r} is not a recipe; choose one of {sorted(RECIPES)}")
    for key, config in [("config", suite.config), *((f"arms.{name}.config", arm.config) for name, arm in suite.arms.items())]:
        if config and not (REPOSITORY / config).is_file():
            raise UserError(f"{origin}: {key}: no file {config} in the project's folder")
    for name, arm in suite.arms.items():
        if arm.pretrained_by and (suite.arms[arm.pretrained_by].pretrained_by or not suite.arms[arm.pretrained_by].is_pretrained):
            raise UserError(f"{origin}: arms.{name}.pretrained_by: {arm.pretrained_by!r} has no pre-training of its own: name an arm that has")
    run = suite.run_names()
    idle = [name for name in suite.arms if name not in run and not any(name in curve.arms for curve in suite.curves)]
    if idle:
        raise UserError(f"{origin}: sections: {', '.join(map(repr, idle))} is in no section and no curve: add it to one, or remove the arm")
    compared = set(run) | {arm for curve in suite.curves for arm in curve.arms}
    of_sections = [(f"sections.{number}.controls", section.controls) for number, section in enumerate(suite.sections)]
    _require_known(compared, [("controls", suite.controls), *of_sections], f"{origin}: ", "arm of a section or curve")
    drawn = [("learning_curves", suite.learning_curves), ("slices.arms", suite.slices.arms if suite.slices else ())]
    _require_known(run, drawn, f"{origin}: ", "arm of a section")
    return suite


def _with_title(content: dict[str, Any], path: Path) -> dict[str, Any]:
    return {"title": path.stem, **content}


def _mentioned_arms(suite: Suite) -> Iterable[tuple[str, Sequence[str]]]:
    yield "controls", suite.controls
    for number, section in enumerate(suite.sections):
        yield f"sections.{number}.arms", section.arms
        yield f"sections.{number}.controls", section.controls
    for number, curve in enumerate(suite.curves):
        yield f"curves.{number}.arms", curve.arms
    for name, arm in suite.arms.items():
        yield f"arms.{name}.pretrained_by", [arm.pretrained_by] if arm.pretrained_by else []


def _require_known(known: Iterable[str], mentioned: Iterable[tuple[str, Sequence[str]]], origin: str, kind: str) -> None:
    known = list(known)
    for key, names in mentioned:
        for name in names:
            if name not in known:
                raise UserError(f"{origin}{key}: {name!r} is no {kind}; choose from {', '.join(map(repr, known))}")
