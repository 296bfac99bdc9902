"""The run folder: the files of one training run.

    runs/NAME/
      config.yaml         the resolved config, which `--config` can read
      run.json            id, dataset, image spec, versions and device
      metrics.jsonl       one line an epoch
      guard.log           one line for each epoch that the guard of an adversarial loss undid
      tensorboard/        the same for TensorBoard
      reconstructions/    originals above reconstructions, one picture an epoch
      plots/              losses and other metrics over the epochs
      checkpoints/        the latest ones, to resume from
      best/               the weights of the best epoch, with export_best
      perceptual.safetensors  the learned network of a perceptual loss, if there is one
      prior/              the same of a second stage, the prior over the codes, if there is one

A second run of the same name goes to NAME-2, and so on: nothing is overwritten.
"""

import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from service.contract.manifest import Run
from trainer import durable
from trainer.cli import command
from trainer.config import RunConfig, check_keys, in_epochs, read_yaml, validated
from trainer.errors import ConfigError, RunError, nearest
from trainer.kinds import KINDS

Record = dict[str, float]
CONFIG = "config.yaml"
FACTS = "run.json"
ID_BYTES = 8


class RunFolder:
    """A run folder that exists; with ``replace`` its model may replace one that another run published."""

    def __init__(
        self, folder: Path, config: RunConfig, title: str | None = None, *, replace: bool = False
    ) -> None:
        self.folder = folder
        self.config = config
        self.title = title or folder.name
        self.checkpoints = folder / "checkpoints"
        self.best = folder / "best"
        self.replace = replace

    @classmethod
    def create(
        cls, config: RunConfig, facts: Mapping[str, Any], *, numbered: bool = False, replace: bool = False
    ) -> "RunFolder":
        """Make a new run folder, with the config and further facts about the run.

        If ``numbered``, the run and its model are named as the folder, and the name is one that no published
        model has: NAME, NAME-2, ... Raises RunError if the folder cannot be written.
        """
        folder, number = config.out / config.name, 1
        with durable.file_errors(RunError, f"cannot make the run folder {folder}"):
            config.out.mkdir(parents=True, exist_ok=True)
            while (numbered and (config.export_to / folder.name).exists()) or not _made(folder):
                number += 1
                folder = config.out / f"{config.name}-{number}"
        identity = {
            "id": secrets.token_hex(ID_BYTES),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if numbered:
            identity["numbered"] = config.name
            config = config.model_copy(update={"name": folder.name})
        run = cls(folder, config, replace=replace)
        try:
            run.configure(config)
            with run.writing():
                text = json.dumps({**identity, **facts}, indent=2)
                (folder / FACTS).write_text(f"{text}\n", encoding="utf-8")
        except BaseException:
            # It would keep its name.
            run.delete()
            raise
        return run

    @staticmethod
    def check(config: RunConfig) -> None:
        """Raise RunError if no run folder can be made."""
        if (reason := durable.refusal(config.out)) is not None:
            raise RunError(f"cannot make the run folder {config.out / config.name}: {reason}")

    @classmethod
    def open(cls, folder: Path) -> "RunFolder":
        """Open a run folder. Raises RunError if it is none."""
        if not (folder / CONFIG).is_file():
            raise RunError(f"{folder} is no run folder: it has no {CONFIG}")
        # The name of a folder is that of its run, and "." is none.
        folder = folder if folder.name not in ("", "..") else folder.resolve()
        values = read_yaml(folder / CONFIG)
        kind = str(values.get("kind"))
        if kind not in KINDS:
            raise RunError(f"{folder} is of the unknown kind {kind!r}.{nearest(kind, KINDS)}")
        check_keys(kind, values, str(folder / CONFIG))
        # A run goes on wherever its folder was moved.
        return cls(folder, validated(kind, values | {"out": folder.parent}))

    @classmethod
    def latest(cls, out: Path, name: str, *, numbered: bool = False) -> "RunFolder":
        """The newest run of a name: of NAME, NAME-2, ... the one with the highest number.

        If ``numbered``, a run that got such a number as its own name (``create``) is one of them.
        """
        pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
        numbers = {
            int(match[1] or 1): path
            for path in (out.iterdir() if out.is_dir() else ())
            if (match := pattern.fullmatch(path.name)) and (path / CONFIG).is_file()
        }
        for number in sorted(numbers, reverse=True):
            run = cls.open(numbers[number])
            # NAME-2 may as well be the first run of that very name.
            if run.config.name == name or (numbered and run.facts.get("numbered") == name):
                return run
        raise RunError(f"nothing to resume: {out} holds no run named {name!r}")

    def configure(self, config: RunConfig) -> None:
        """Replace the config of the run, and write it to config.yaml."""
        content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        with self.writing():
            (self.folder / CONFIG).write_text(content, encoding="utf-8")
        self.config = config

    def writing(self) -> AbstractContextManager[None]:
        """A block that raises RunError if the file system refuses what it writes into the folder."""
        return durable.file_errors(RunError, f"cannot write into {self.folder}")

    def changed(self, kind: str, flags: Mapping[str, Any]) -> RunConfig:
        """The config to resume with: that of the run, and what is asked for now.

        Raises RunError if the run is of another kind, ConfigError for a value that may not change and for
        fewer epochs than are done.
        """
        config = self.config
        if config.kind != kind:
            raise RunError(f"the run {config.name} is of kind {config.kind!r}, not {kind!r}")
        changed = validated(kind, config.model_dump() | dict(flags))
        # A run has no steps: its config has the epochs that they made.
        if any(getattr(changed, f"{stage}steps") for stage in changed.stages_in_steps):
            changed = in_epochs(changed, int(self.facts["training_images"]))
        self._check_epochs(changed)
        # The training inputs of a second stage must not change once it has begun.
        free = config.free_on_resume
        free = free - {"epochs"} if self.has_later_stage else free | config.second_stage_fields
        before, now = (each.model_dump(mode="json") for each in (config, changed))
        for field in before:
            if before[field] != now[field] and field not in free:
                raise ConfigError(
                    f"the run to resume has {field} {before[field]!r}, and now {now[field]!r} is asked for. "
                    f"Only {', '.join(sorted(free))} may change; for another model start a new run"
                )
        return changed

    def _check_epochs(self, config: RunConfig) -> None:
        """Raise ConfigError if a stage is to have fewer epochs than are done; a second one may have none."""
        for field in (name for name in type(config).model_fields if name.endswith("epochs")):
            stage, epochs = field.removesuffix("epochs").rstrip("_"), getattr(config, field)
            # An epoch that was undone has no record.
            done = int(max((record["epoch"] for record in self.stage(stage).records()), default=0))
            if epochs < done and (epochs or not stage):
                raise ConfigError(
                    f"the run to resume has done {done} epochs, and now {field} {epochs} is asked for: give "
                    f"{done} or more, or publish it as it is: {command('export', self.folder)}"
                )

    def published_as(self, **given: Any) -> RunConfig:
        """The config with another place or name of the published model, where the value is not None.

        Raises ConfigError for a bad name.
        """
        changes = {key: value for key, value in given.items() if value is not None}
        return validated(self.config.kind, self.config.model_dump() | changes)

    @property
    def published(self) -> Path:
        """The model that this run published, here or beside its own folder. Raises RunError if it is gone."""
        published = self.config.export_to / self.config.name
        for folder in (published, self.folder.absolute().parent.parent / published):
            manifest = durable.read_published(folder)
            if manifest is not None and manifest.run is not None and manifest.run.id == self.identity.id:
                return folder
        raise RunError(
            f"{published} is no model of {self.folder}. To publish it: {command('export', self.folder)}"
        )

    @property
    def identity(self) -> Run:
        """The name of the folder and the id of the run; an older run, without an id, has its start."""
        facts = self.facts
        return Run(name=self.folder.name, id=str(facts.get("id", facts["started"])))

    def stage(self, name: str) -> "RunFolder":
        """A further stage of this run: a folder inside this one, which the first checkpoint makes."""
        return RunFolder(self.folder / name, self.config, f"{self.title}-{name}", replace=self.replace)

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json holds. Raises RunError if it cannot be read, or is not of a run."""
        file = self.folder / FACTS
        try:
            facts = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{file} cannot be read: {error}") from error
        if "started" not in facts:
            raise RunError(f"{file} cannot be read: it does not say when the run was started")
        return facts

    def latest_checkpoint(self) -> Path:
        """The newest finished checkpoint. Raises RunError if there is none."""
        checkpoints = durable.checkpoints(self.checkpoints)
        if not checkpoints:
            raise RunError(f"{self.folder} holds no checkpoint")
        return checkpoints[-1]

    def exported_checkpoint(self) -> Path:
        """The weights that the run exports: of its best epoch with ``export_best``, or the latest checkpoint.

        Raises RunError if there is no checkpoint.
        """
        latest = self.latest_checkpoint()
        kept = durable.checkpoints(self.best) if self.config.export_best else []
        return kept[-1] if kept else latest

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(durable.checkpoints(self.checkpoints))

    @property
    def has_later_stage(self) -> bool:
        """Whether a further stage has been begun."""
        return any(durable.checkpoints(path) for path in self.folder.glob("*/checkpoints"))

    def delete(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl, oldest epoch first. Raises RunError if they cannot be read."""
        file = self.folder / "metrics.jsonl"
        try:
            lines = file.read_text().splitlines(keepends=True) if file.exists() else []
            # A power cut can leave half a line, which the resumed run writes again.
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}") from error

    def rewind(self, epochs: int) -> None:
        """Delete the lines after the first ``epochs`` epochs: a resumed run trains those again."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        unfinished = self.folder / ".metrics.jsonl"
        with self.writing():
            unfinished.write_text("".join(json.dumps(record) + "\n" for record in kept))
            unfinished.replace(self.folder / "metrics.jsonl")

    def log(self, record: Record) -> None:
        """Append the metrics of one epoch to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def report(self, lines: Sequence[str]) -> None:
        """Write guard.log anew; without lines there is none."""
        file = self.folder / "guard.log"
        with self.writing():
            if lines:
                file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            else:
                file.unlink(missing_ok=True)

    def picture(self, *parts: str) -> Path:
        """The path of a picture in the run folder, its own folder made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _made(folder: Path) -> bool:
    """Make a folder; False if its name is taken."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
