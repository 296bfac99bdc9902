import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.contract import __version__
from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from tests.fixtures.trainer_command import trainer
from tests.unit.trainer.data.making import noise, save
from trainer import pipeline
from trainer.__main__ import main
from trainer.config import RunConfig, VQVAEConfig
from trainer.export.exporter import Exported
from trainer.kinds import KINDS
from trainer.pipeline import publishing
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder


@pytest.fixture
def _no_export(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "export", lambda *_, **__: trained.exported)


@pytest.fixture
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fit, "begin", lambda _: pytest.fail("trained"))


def trained_configs(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configs that would have been trained, in new runs or in resumed ones."""
    taken: list[RunConfig] = []

    def noted(*given: object, **_: object) -> Exported:
        taken.extend(each for each in given if isinstance(each, RunConfig))
        return trained.exported

    monkeypatch.setattr(pipeline, "train", noted)
    monkeypatch.setattr(pipeline, "resume", noted)
    return taken


def test_the_help_shows_commands_to_copy_and_every_kind() -> None:
    result = trainer("--help")
    assert result.exit_code == 0
    assert "\n      python -m trainer vqvae --epochs 1 --limit 5000\n" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    for command in (*KINDS, "export", "reconstruct", "sample", "evaluate"):
        assert re.search(rf"^  {command} +\w", result.output, re.MULTILINE)


def test_the_help_of_a_kind_says_what_it_is() -> None:
    result = trainer("vqvae", "--help")
    assert result.exit_code == 0
    assert "Train a VQ-VAE: images to a grid of codes and back (1711.00937)." in result.output
    assert "--resume" in result.output


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(main, ["--version"], prog_name="tessera-train")
    assert result.exit_code == 0
    assert result.output == f"tessera-train, version {__version__}\n"


@pytest.mark.slow
def test_the_list_of_commands_needs_no_config() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from trainer.__main__ import main\n"
        "from trainer.config import base\n"
        "base.config_class = None\n"
        "sys.exit(CliRunner().invoke(main, ['--help']).exit_code)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_a_command_there_is_the_help() -> None:
    assert "Commands:" in trainer().output


@pytest.mark.slow
def test_help_and_mistakes_do_not_wait_for_torch(tmp_path: Path) -> None:
    exported = Path(__file__).parents[3] / "exported"
    model, places = str(exported / "vqvae-mnist"), [f"--out={tmp_path}", f"--export-to={exported}"]
    mistakes = [
        ["vqvae", "--preset", "no"],
        ["vqvae", "--perceptual-weight=1"],
        ["vqvae", "--data=/nowhere"],
        ["vqvae", "--data=no-such"],
        ["vqvae", f"--data={exported.parent}/docker/monitoring"],
        ["vqvae", "--name=vqvae-mnist", *places],
        ["vqvae", "--export-to=/dev/null/a"],
        ["vqvae", "--out=/dev/null/a"],
        ["vqvae", "--resume", *places],
        ["export", "/nowhere"],
        ["reconstruct", "/nowhere"],
        ["reconstruct", model, "--image=/nowhere.png"],
        ["reconstruct", model, "--out=/dev/null/a.png"],
        ["sample", model, "--label=frog"],
        ["evaluate", "/nowhere"],
        ["evaluate", model, "--data=/nowhere"],
        ["evaluate", model, "--set=no.steps=1"],
    ]
    program = (
        "import json, sys; from click.testing import CliRunner; from trainer.__main__ import main\n"
        "assert CliRunner().invoke(main, ['vqvae', '--help']).exit_code == 0\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(main, arguments)\n"
        "    assert result.exit_code in (1, 2), (arguments, result.output)\n"
        "    assert result.stderr.count('\\n') == 1, result.stderr\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program, json.dumps(mistakes)], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr


@pytest.mark.slow
def test_wandb_without_a_key_is_an_error_of_one_line(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    asked = subprocess.run(
        [sys.executable, "-m", "trainer", "vqvae", "--wandb", f"--out={tmp_path}", f"--export-to={tmp_path}"],
        env=variables | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert asked.stderr == (
        "error: --wandb finds no key: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline\n"
    )


@pytest.mark.usefixtures("_no_training")
def test_a_name_that_is_taken_is_refused_before_training(trained: Trained, tmp_path: Path) -> None:
    places = [f"--out={tmp_path}", f"--export-to={trained.config.export_to}"]
    result = trainer("vqvae", *tiny_models.flags(), *places)
    assert result.exit_code == 1
    assert re.fullmatch(
        rf"error: {trained.exported.folder} is a model of another run \(tiny, published 20.*\): "
        r"choose another name with --name, or replace it with --replace\n",
        result.stderr,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_without_a_name_takes_one_that_is_free_and_keeps_it(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    precious = tmp_path / "exported" / "vqvae-mnist"
    precious.mkdir(parents=True)
    (precious / "manifest.json").write_text("{}")
    places = [f"--out={tmp_path}/runs", f"--export-to={tmp_path}/exported"]
    flags = [flag for flag in tiny_models.flags(epochs=1) if not flag.startswith("--name=")]
    result = trainer("vqvae", *flags, f"--data={digits}", *places)
    assert result.exit_code == 0, result.stderr
    assert "name: vqvae-mnist-2, as there is a run or a model vqvae-mnist already" in result.output
    published = [result.output]
    for arguments in (
        ["vqvae", "--resume", "--epochs=2", *places],
        ["export", f"{tmp_path}/runs/vqvae-mnist-2"],
        ["export", f"{tmp_path}/runs/vqvae-mnist-2", "--name=vqvae-mnist", "--replace"],
    ):
        result = trainer(*arguments)
        assert result.exit_code == 0, result.stderr
        published.append(result.output)
    assert [re.search(r"published \S+/(\S+) ", output)[1] for output in published] == [  # type: ignore[index]
        *["vqvae-mnist-2"] * 3,
        "vqvae-mnist",
    ]
    refused = trainer("export", f"{tmp_path}/runs/vqvae-mnist-2", f"--export-to={tmp_path}/runs")
    assert refused.exit_code == 1
    assert "runs/vqvae-mnist-2 is no model: choose another name with --name" in refused.stderr


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["vqave"],
            r"no kind or command 'vqave'; there are evaluate, .*vae, vlae, vqvae\. Did you mean 'vqvae'\?",
        ),
        (["vqvae", "--preset", "vqvae-minst"], r"no preset 'vqvae-minst'.*Did you mean 'vqvae-mnist'\?"),
        (["vqvae", "--epoch", "3"], r"[Nn]o such option '?--epoch'?.*--epochs"),
        (["vqvae", "--epochs", "no"], r"'--epochs': 'no': input should be a valid integer"),
        (["vqvae", "--image-size", "30"], r"image_size 30 is no multiple of stride 4"),
        (["vqvae", "--lr", "inf"], r"lr is inf: input should be a finite number"),
        (["export"], r"Missing argument 'RUN'"),
        (["reconstruct"], r"Missing argument 'MODEL'"),
        (["sample"], r"Missing argument 'MODEL'"),
        (["evaluate"], r"Missing argument 'MODEL'"),
        (["evaluate", "x", "--nll-samples", "1"], r"'--nll-samples': 1 is not in the range x>=2"),
        (["evaluate", "x", "--samples", "20001"], r"'--samples': 20001 is not in the range 10<=x<=20000"),
        (["evaluate", "x", "--no-write", "--reload=http://x"], r"--reload has no effect beside --no-write"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(arguments: list[str], complaint: str) -> None:
    result = trainer(*arguments)
    assert result.exit_code == 2
    assert re.search(complaint, result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("_no_training")
def test_an_unknown_yaml_key_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("codebook_sise: 3")
    result = trainer("vqvae", "--config", str(tmp_path / "mine.yaml"))
    assert result.exit_code == 2
    assert "vqvae has no key 'codebook_sise'. Did you mean 'codebook_size'?" in result.stderr


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["vqvae", "--resume", "--out", "{folder}"],
            "nothing to resume: {folder} holds no run named 'vqvae-mnist'",
        ),
        (["export", "{folder}"], "{folder} is no run folder: it has no config.yaml"),
        (["vqvae", "--data", "{folder}/none"], "there is no data '{folder}/none'"),
        (
            ["vqvae", "--out", "{folder}/file/runs"],
            "cannot make the run folder {folder}/file/runs/vqvae-mnist: Not",
        ),
        (["vqvae", "--export-to", "{folder}/file"], "cannot publish into {folder}/file: File exists"),
        (["vqvae", "--export-to", "{folder}/file/a"], "cannot publish into {folder}/file/a: Not a directory"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    tmp_path: Path, digits: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "file").touch()
    places = (
        ["--data={data}", "--export-to={folder}/exported", "--device=cpu"] if arguments[0] == "vqvae" else []
    )
    filled = [text.format(folder=tmp_path, data=digits) for text in (arguments[0], *places, *arguments[1:])]
    result = trainer(*filled)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {complaint.format(folder=tmp_path)}")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("_no_training")
@pytest.mark.skipif(not Path("/sys").is_dir(), reason="a folder that not even root may write into")
@pytest.mark.parametrize("place", ["--out", "--export-to"])
def test_no_write_permission_is_told_before_any_training(tmp_path: Path, digits: Path, place: str) -> None:
    result = trainer("vqvae", f"--data={digits}", f"--export-to={tmp_path}", place, "/sys/tessera")
    assert result.exit_code == 1
    assert re.fullmatch(r"error: cannot (publish into|make the run folder) /sys/tessera.*\n", result.stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_export")
def test_an_interrupted_run_goes_on_as_it_says(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"--data={trained.config.data}", f"--out={tmp_path}", f"--export-to={tmp_path}/exported"]
    with monkeypatch.context() as patch:
        tiny_models.signal_in_step(patch, 11, signal.SIGINT)
        result = trainer("vqvae", *tiny_models.flags(), *places)
    assert result.exit_code == 130
    assert result.stderr.startswith(
        "error: stopped in epoch 2 after step 3. To go on: python -m trainer vqvae"
    )
    assert result.stderr.count("\n") == 1
    advice = shlex.split(result.stderr.split("python -m trainer ")[1])
    resumed = trainer(*advice)
    assert resumed.exit_code == 0, resumed.stderr
    run = RunFolder.open(tmp_path / "tiny")
    assert f"resuming {run.folder} in epoch 2, step 3" in resumed.output
    assert tiny_models.figures(run) == tiny_models.figures(trained.run)
    first, second = (each.latest_checkpoint() / "model.safetensors" for each in (trained.run, run))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("_no_training")
def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    RunFolder.create(VQVAEConfig(name="tiny", out=tmp_path), {})
    result = trainer("vqvae", "--resume", "--name=tiny", f"--out={tmp_path}")
    assert (result.exit_code, result.stderr) == (1, f"error: {tmp_path / 'tiny'} holds no checkpoint\n")


@pytest.mark.parametrize("way", ["a flag", "a file"])
def test_a_resumed_run_cannot_be_made_another(trained: Trained, tmp_path: Path, way: str) -> None:
    (tmp_path / "other.yaml").write_text("lr: 0.5")
    given = ["--lr=0.5"] if way == "a flag" else [f"--config={tmp_path / 'other.yaml'}"]
    result = trainer("vqvae", "--resume", "--name=tiny", f"--out={trained.config.out}", *given)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the run to resume has lr 0.001, and now 0.5 is asked for")


def test_a_resumed_run_is_asked_what_a_flag_needs_rather_than_the_preset(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = trained_configs(trained, monkeypatch)
    resume = ["vqvae", "--resume", "--name=tiny", f"--out={trained.config.out}"]
    refused = trainer(*resume, "--prior-temperature=0.5")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "error: --prior-temperature 0.5 has no effect: it needs --prior-epochs or --prior-steps, and this "
        "run has --prior-epochs 0 and --prior-steps none\n"
    )
    assert trainer(*resume, "--prior-temperature=0.5", "--prior-steps=4").exit_code == 0
    (config,) = taken
    assert isinstance(config, VQVAEConfig)
    assert (config.prior_epochs, config.prior_temperature) == (1, 0.5)


def test_a_resumed_run_has_nothing_of_a_preset(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = trained_configs(trained, monkeypatch)
    resume = ["vqvae", "--resume", "--name=tiny", f"--out={trained.config.out}"]
    refused = trainer(*resume, "--preset=vqvae-pictures")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: --preset vqvae-pictures has no effect: --resume takes")
    # The preset has four heads, which do not divide it; the run has two.
    result = trainer(*resume, "--prior-steps=4", "--prior-width=18")
    assert result.exit_code == 0, result.stderr
    assert "preset" not in result.output
    (config,) = taken
    assert isinstance(config, VQVAEConfig)
    assert (config.prior_width, config.prior_heads) == (18, 2)


def test_a_resumed_run_takes_steps_or_epochs(trained: Trained) -> None:
    resume = ["vqvae", "--resume", "--name=tiny", f"--out={trained.config.out}"]
    result = trainer(*resume, "--epochs=3", "--steps=100")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --epochs 3 has no effect: it needs --steps none")


def test_none_takes_back_what_a_file_says(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("limit: 5\nepochs: 3\n")
    taken = trained_configs(trained, monkeypatch)
    result = trainer("vqvae", f"--config={tmp_path / 'mine.yaml'}", "--limit", "none", "--no-kmeans-start")
    assert result.exit_code == 0, result.stderr
    (config,) = taken
    assert isinstance(config, VQVAEConfig)
    assert (config.limit, config.epochs, config.kmeans_start) == (None, 3, False)


def test_the_config_of_a_run_is_one_that_config_takes(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = trained_configs(trained, monkeypatch)
    trainer("vqvae", "--replace", "--config", str(trained.run.folder / "config.yaml"))
    assert taken == [trained.config]


@pytest.mark.slow
def test_a_run_is_published_as_it_was_after_training(trained: Trained, tmp_path: Path) -> None:
    result = trainer("export", str(trained.run.folder), "--export-to", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert f"published {tmp_path / 'tiny'} (version {trained.exported.manifest.version})" in result.output


@pytest.mark.parametrize(
    ("kind", "flags", "name"),
    [
        ("vqvae", [], "vqvae-pictures"),
        ("vae", [], "vae-pictures"),
        ("vqvae", ["--preset=vqvae-mnist"], "vqvae-mnist"),
        # There is none for pictures.
        ("vlae", [], "vlae-mnist"),
    ],
)
def test_a_folder_of_pictures_has_a_preset_of_its_own(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, flags: list[str], name: str
) -> None:
    save(noise(0, width=40), tmp_path / "photos" / "1.png")
    taken = trained_configs(trained, monkeypatch)
    places = [f"--data={tmp_path / 'photos'}", f"--out={tmp_path / 'runs'}", f"--export-to={tmp_path}"]
    result = trainer(kind, *places, *flags)
    assert result.exit_code == 0, result.output
    assert [config.name for config in taken] == [name]
    assert result.output.startswith(f"preset: {name}, as the data are pictures") == ("pictures" in name)


def test_a_bad_name_is_refused_before_exporting(trained: Trained, tmp_path: Path) -> None:
    result = trainer("export", str(trained.run.folder), "--export-to", str(tmp_path), "--name", "../other")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: name is '../other': string should match pattern")


def test_pictures_stand_above_their_reconstructions(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "pairs.png"
    result = trainer("reconstruct", str(trained.exported.folder), "--out", str(out))
    assert result.exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert f"written to {out}" in result.output
    assert "test image 7: MSE " in result.output


def test_a_picture_that_is_missing_is_told_in_a_line(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "none.png"
    result = trainer("reconstruct", str(trained.exported.folder), "--image", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"error: {file} cannot be read: no such file or directory\n"


@pytest.mark.slow
def test_without_its_packages_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['rich.console'] = None; import trainer.__main__"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert asked.stderr.startswith("error: the trainer needs packages that are not installed (rich")
    assert asked.stderr.endswith("(in a checkout: pip install . ./trainer)\n")
