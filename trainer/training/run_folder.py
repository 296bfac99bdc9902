"""The run folder: the files of one training run.

    runs/NAME/
      config.yaml         the resolved config, which `--config` can read
      run.json            dataset, image spec, versions and device
      metrics.jsonl       one line an epoch
      tensorboard/        the same for TensorBoard
      reconstructions/    originals above reconstructions, one picture an epoch
      plots/              losses and other metrics over the epochs
      checkpoints/        the latest ones, to resume from
      prior/              the same of a second stage, the prior over the codes, if there is one

A second run of the same name goes to NAME-2, and so on: nothing is overwritten.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from trainer.config import RunConfig, check_keys, read_yaml, validated
from trainer.errors import RunError, nearest
from trainer.kinds import KINDS
from trainer.training import checkpoint

Record = dict[str, float]


class RunFolder:
    """A run folder that exists."""

    def __init__(self, folder: Path, config: RunConfig, title: str | None = None) -> None:
        self.folder = folder
        self.config = config
        self.title = title or folder.name
        self.checkpoints = folder / "checkpoints"

    @classmethod
    def create(cls, config: RunConfig, facts: Mapping[str, Any]) -> "RunFolder":
        """Make a new run folder, with the config and further facts about the run.

        Raises RunError if it cannot be written.
        """
        folder = config.out / config.name
        number = 1
        try:
            config.out.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    number += 1
                    folder = config.out / f"{config.name}-{number}"
            run = cls(folder, config)
            run.configure(config)
            facts = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
            (folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, folder: Path) -> "RunFolder":
        """Open a run folder. Raises RunError if it is none."""
        if not (folder / "config.yaml").is_file():
            raise RunError(f"{folder} is no run folder: it has no config.yaml")
        values = read_yaml(folder / "config.yaml")
        kind = str(values.get("kind"))
        if kind not in KINDS:
            raise RunError(f"{folder} is of the unknown kind {kind!r}.{nearest(kind, KINDS)}")
        check_keys(kind, values, str(folder / "config.yaml"))
        return cls(folder, validated(kind, values))

    @classmethod
    def latest(cls, out: Path, name: str) -> "RunFolder":
        """The newest run of a name: of NAME, NAME-2, ... the one with the highest number."""
        pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
        numbers = {
            int(match[1] or 1): path
            for path in (out.iterdir() if out.is_dir() else ())
            if (match := pattern.fullmatch(path.name)) and (path / "config.yaml").is_file()
        }
        for number in sorted(numbers, reverse=True):
            run = cls.open(numbers[number])
            if run.config.name == name:  # NAME-2 may as well be the first run of that very name
                return run
        raise RunError(f"nothing to resume: {out} holds no run named {name!r}")

    def configure(self, config: RunConfig) -> None:
        """Replace the config of the run, and write it to config.yaml."""
        content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        try:
            (self.folder / "config.yaml").write_text(content, encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write into {self.folder}: {error.strerror}") from error
        self.config = config

    def stage(self, name: str) -> "RunFolder":
        """A further stage of this run: a folder inside this one, which the first checkpoint makes."""
        return RunFolder(self.folder / name, self.config, f"{self.title}-{name}")

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json holds."""
        try:
            return dict(json.loads((self.folder / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.folder / 'run.json'} cannot be read: {error}") from error

    def latest_checkpoint(self) -> Path:
        """The newest finished checkpoint. Raises RunError if there is none."""
        checkpoints = checkpoint.found(self.checkpoints)
        if not checkpoints:
            raise RunError(f"{self.folder} holds no checkpoint")
        return checkpoints[-1]

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(checkpoint.found(self.checkpoints))

    @property
    def has_later_stage(self) -> bool:
        """Whether a further stage has been begun."""
        return any(checkpoint.found(path) for path in self.folder.glob("*/checkpoints"))

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl, oldest epoch first."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        # A power cut can leave half a line, which the resumed run writes again.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, epochs: int) -> None:
        """Delete the lines after the first ``epochs`` epochs: a resumed run trains those again."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        unfinished = self.folder / ".metrics.jsonl"
        unfinished.write_text("".join(json.dumps(record) + "\n" for record in kept))
        unfinished.replace(self.folder / "metrics.jsonl")

    def log(self, record: Record) -> None:
        """Append the metrics of one epoch to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def picture(self, *parts: str) -> Path:
        """The path of a picture in the run folder, its own folder made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
