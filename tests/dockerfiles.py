"""Just enough of a Dockerfile's grammar to look at its stages."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """A stage: the image or stage it is made from, and its instructions in order, each without line breaks."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [text for word, text in self.instructions if word == keyword]

    def last(self, keyword: str) -> str:
        return self.all(keyword)[-1]

    def words(self, keyword: str) -> list[str]:
        """The last instruction of that keyword in its JSON form, such as `ENTRYPOINT ["a", "b"]`."""
        return json.loads(re.search(r"\[.*\]$", self.last(keyword)).group())


def read_stages(path: Path) -> dict[str, Stage]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for instruction in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, _, text = instruction.partition(" ")
        if keyword == "FROM":
            base, _, name = text.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif keyword:
            stage.instructions.append((keyword, text))
    return stages
