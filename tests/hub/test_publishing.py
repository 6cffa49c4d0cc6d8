"""A trained folder on the Hub: uploaded by the script, and used by processes that have nothing but the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY as ROOT
from conftest import commands
from huggingface_hub import ModelCard
from stand_in import DROP, TOKEN, Hub

from whisper_emotion.card_metadata import CardOptions
from whisper_emotion.errors import UserError
from whisper_emotion.publishing import prepare_upload, push_upload

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "push_to_hub.py"
CODE = {
    "configuration_whisper_emotion.py", "encoder_whisper_emotion.py", "feature_extraction_whisper_emotion.py",
    "modeling_whisper_emotion.py", "pooling_whisper_emotion.py",
}  # fmt: skip
PUBLISHED = {
    "README.md", "config.json", "preprocessor_config.json", "model.safetensors", "scores.json", "confusion_matrix.png",
} | CODE  # fmt: skip
REPOSITORY = PUBLISHED | {".gitattributes"}

# --- the script, many times in one fresh process ---------------------------------------------------------------------

PUBLISHER = """
import contextlib, hashlib, io, json, os, pathlib, runpy, sys
script, commands = sys.argv[1], json.loads(sys.argv[2])

def contents(folder):
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

for folder, options, token in commands:
    os.environ["HF_TOKEN"] = token or ""
    sys.argv = [script, "--model", folder, *options]
    before, out, err = contents(folder), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), contents(folder) == before]))
"""


@dataclass
class Case:
    """A command, what is wrong with it or with the Hub, and what the script is to say."""

    repo_id: str
    options: tuple[str, ...] = ()
    token: str | None = TOKEN
    said: str | None = None  # on stderr; None: the command does its work
    faults: tuple[tuple[str, int | str], ...] = ()
    folder: str | None = None


def on_the_pages():
    """What the front page and the page on deploying push, by their command lines."""
    cases = {}
    for page in (ROOT / "README.md", ROOT / "model_cards" / "guides" / "deploying.md"):
        for words in commands(page):
            if words[:2] == ["scripts/push_to_hub.py", "--model"]:
                repo_id, name, *options = words[3:]
                assert repo_id == "--repo_id"
                cases[f"{name} {options} of {page.name}"] = Case(name, tuple(options))
    return cases


CASES = {
    **on_the_pages(),
    "public": Case("me/mood"),
    "private, on a branch": Case("me/secret", ("--private", "--revision", "v1")),
    "the same again": Case("me/secret", ("--private", "--revision", "v1")),
    "dry run": Case("me/dry", ("--dry_run", "--private"), token=None),
    "messy folder": Case("me/messy", folder="messy"),
    "a Trainer's folder": Case("me/own", ("--license", "mit", "--language", "de"), folder="own"),
    "private where public": Case("me/mood", ("--private",), said="--private: me/mood is public"),
    "no token": Case("me/x", token=None, said="HF_TOKEN: not set: set a token with write access"),
    "wrong token": Case("me/x", token="hf_wrong", said="rejects this token (Invalid credentials in Author"),
    "odd token": Case("me/x", token="hf_wrong\u00e9", said="HF_TOKEN: contains invalid characters"),
    "another's namespace": Case("you/x", said="--repo_id you/x: this token has no write access (You don't have the r"),
    "no namespace": Case("mood", said="--repo_id mood: has no namespace, expected NAMESPACE/NAME such as me/mood"),
    "forbidden name": Case("me/mo--od", said="--repo_id me/mo--od: "),
    "three parts": Case("a/b/c", said="--repo_id a/b/c: "),
    "no folder": Case("me/x", said="gone: is not a folder, expected one that train.py or a", folder="gone"),
    "unknown licence": Case(
        "me/f0", said='refused the upload: Invalid metadata in README.md. - "license" must', folder="unlicensed"
    ),
    "no branch": Case("me/f1", ("--revision", "v"), said="status 400 (Refused w", faults=(("me/f1/branch/", 400),)),
    "preupload": Case("me/f2", said="rejects this token", faults=(("me/f2/preupload/", 401),)),
    "storage": Case("me/f3", said="me/f3: this token has no", faults=(("PUT /storage/model/me/f3", 403),)),
    "too large": Case("me/f4", said="status 413 (Refused with 413)", faults=(("me/f4/commit/", 413),)),
    "server error": Case("me/f5", said="status 500 (Refused with 500)", faults=(("me/f5/commit/", 500),)),
    "broken commit": Case("me/f6", said="broke off (", faults=(("me/f6/commit/", DROP),)),
    "broken storage": Case("me/f7", faults=(("PUT /storage/model/me/f7", DROP),)),  # is tried again
}  # fmt: skip


@dataclass
class Push:
    """How a command ended."""

    code: int
    out: str
    err: str
    folder_is_whole: bool


@pytest.fixture(scope="module")
def folders(trained_dir, tmp_path_factory):
    """The trained folder, and others by name: one with what nobody wants on the Hub, one with an odd card."""
    root = tmp_path_factory.mktemp("folders")
    messy, unlicensed = copy(trained_dir, root / "messy"), copy(trained_dir, root / "unlicensed")
    for name in ("checkpoint-8/model.safetensors", "unfinished/settings.json", ".env", ".cache/x", "optimizer.pt"):
        (messy / name).parent.mkdir(exist_ok=True)
        (messy / name).write_text("not to be published")
    card = unlicensed / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: none-such"))
    own = trainer_folder(trained_dir, root / "own")
    return {None: trained_dir, "messy": messy, "unlicensed": unlicensed, "own": own, "gone": root / "gone"}


def trainer_folder(trained_dir: Path, to: Path) -> Path:
    """The folder that a user's own Trainer saves: no card, no scores."""
    from transformers import Trainer, TrainingArguments

    from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

    Trainer(
        model=WhisperForEmotionClassification.from_pretrained(trained_dir),
        args=TrainingArguments(output_dir=str(to), report_to=[], use_cpu=True),
        processing_class=WhisperEmotionFeatureExtractor.from_pretrained(trained_dir),
    ).save_model()
    return to


@pytest.fixture(scope="module")
def pushes(hub, folders, tmp_path_factory) -> dict[str, Push]:
    """Every case's command in turn, and then, where the Hub had failed, the same command once more."""
    names, commands = [], []
    for name, case in CASES.items():
        hub.faults.update(case.faults)
        for again in ("", " again")[: 1 + bool(case.said and case.faults)]:
            names.append(name + again)
            commands.append([str(folders[case.folder]), ["--repo_id", case.repo_id, *case.options], case.token])
    done = hub.run(tmp_path_factory.mktemp("home"), "-c", PUBLISHER, SCRIPT, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no log line goes past what is caught
    return {name: Push(*json.loads(line)) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


def test_every_push_leaves_the_local_folder_as_it_was(pushes):
    assert [name for name, push in pushes.items() if not push.folder_is_whole] == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.said])
def test_what_goes_wrong_is_one_line_without_the_token(hub, pushes, name):
    case, push = CASES[name], pushes[name]
    assert push.code == 2
    (line,) = push.err.splitlines()
    assert line.startswith("push_to_hub.py: error: ")
    assert case.said in line
    assert "hf_" not in push.out + push.err
    if case.faults:
        assert pushes[f"{name} again"].code == 0, "the same command does it when the Hub has recovered"
        assert len(hub.repos["model", case.repo_id].commits) == 2  # and the first had committed nothing


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.said])
def test_what_goes_well_exits_with_0(pushes, name):
    assert pushes[name].code == 0, pushes[name].err


def test_refused_names_and_tokens_make_no_repository(hub, pushes):
    made = {"mine", "mood", "secret", "messy", "own", *(f"f{number}" for number in range(8))}
    assert {name for _, name in hub.repos} == {f"me/{name}" for name in made}


def test_the_whole_model_goes_in_one_commit_and_the_card_names_the_repository(hub, pushes, trained_dir):
    repo = hub.repos["model", "me/mood"]
    assert not repo.private
    assert len(repo.branches["main"]) == 2  # the Hub's own first commit, and ours
    assert pushes["public"].out.splitlines()[-1] == f"uploaded: {hub.url}/me/mood/commit/{repo.branches['main'][-1]}"
    assert set(repo.files()) == REPOSITORY
    for name in PUBLISHED - {"README.md"}:
        assert repo.files()[name] == (trained_dir / name).read_bytes(), name
    card, placeholder = (trained_dir / "README.md").read_bytes(), f'model="{trained_dir.name}"'.encode()
    assert card.count(placeholder) == 1
    assert repo.files()["README.md"] == card.replace(placeholder, b'model="me/mood"')


def test_private_and_on_a_branch(hub, pushes):
    repo = hub.repos["model", "me/secret"]
    assert repo.private
    assert set(repo.files("main")) == {".gitattributes"}
    assert set(repo.files("v1")) == REPOSITORY
    assert len(repo.branches["v1"]) == 2  # the same again is no commit


def test_a_dry_run_lists_files_with_sizes_and_asks_nobody(hub, pushes, trained_dir):
    *listed, total, left_out, _, end = (line.split() for line in pushes["dry run"].out.splitlines())
    sizes = {name: int(size.replace(",", "")) for size, name in listed}
    shorter = len(trained_dir.name) - len("me/dry")
    assert sizes == {name: (trained_dir / name).stat().st_size - shorter * (name == "README.md") for name in PUBLISHED}
    assert int(total[0].replace(",", "")) == sum(sizes.values())
    assert left_out == ["left", "out:", "predictions.csv"] and end == ["nothing", "was", "uploaded"]
    assert not [request for request in hub.requests if "me/dry" in request]


def test_push_names_the_options_that_the_card_lacks(pushes):
    line = pushes["dry run"].out.splitlines()[-2]
    assert line.startswith(
        "the model card states no language, datasets, base_model: set --language, --datasets, --base_m"
    )


def test_push_of_a_trainers_folder_uploads_an_honest_card(hub, pushes):
    repo, push = hub.repos["model", "me/own"], pushes["a Trainer's folder"]
    assert set(repo.files()) == REPOSITORY - {"scores.json", "confusion_matrix.png"}
    card = ModelCard(repo.files()["README.md"].decode())
    assert "**No test of this model is recorded here.**" in card.text
    assert 'pipeline("audio-classification", model="me/own", trust_remote_code=True)' in card.text
    assert "Labels the emotion of a spoken utterance: angry, happy, neutral, sad." in card.text
    assert card.data.to_dict() == {
        "language": "de", "license": "mit", "library_name": "transformers", "pipeline_tag": "audio-classification",
        "tags": ["speech-emotion-recognition", "emotion-recognition", "whisper", "whisper-emotion"],
    }  # fmt: skip
    assert "README.md: missing, so a short card is uploaded, which says that no test is recorded" in push.out
    assert "left out: training_args.bin" in push.out.splitlines()


def test_checkpoints_caches_and_secrets_stay_at_home(hub, pushes):
    assert set(hub.repos["model", "me/messy"].files()) == REPOSITORY
    left_out = "left out: .cache, .env, checkpoint-8, optimizer.pt, predictions.csv, unfinished"
    assert left_out in pushes["messy folder"].out.splitlines()


def test_nobody_there_is_one_line(trained_dir, tmp_path):
    with Hub() as gone:
        pass
    done = gone.run(tmp_path, SCRIPT, "--model", trained_dir, "--repo_id", "me/mood")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"push_to_hub.py: error: --repo_id me/mood: the upload to {gone.url} broke off (")


def test_offline_mode_is_named(trained_dir, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # the tests' own process is offline
    with pytest.raises(UserError, match="^HF_HUB_OFFLINE: is set, unset it to upload$"):
        push_upload(prepare_upload(trained_dir, "me/mood"))


# --- what a stranger has of it ---------------------------------------------------------------------------------------

BY_METHOD = """
import sys
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
import whisper_emotion
folder = sys.argv[1]
AutoModelForAudioClassification.from_pretrained(folder).push_to_hub("me/other")
AutoFeatureExtractor.from_pretrained(folder).push_to_hub("me/other")
"""

# Transformers, and no package of ours. Each name is a repository's or a folder's.
STRANGER = """
import sys
sys.modules["whisper_emotion"] = None  # importing it raises ImportError
import json
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline
rng = np.random.default_rng(0)
clips = [(0.1 * rng.standard_normal(int(16_000 * seconds))).astype(np.float32) for seconds in (0.5, 3)]

def ask(name, **options):
    options["trust_remote_code"] = True
    extractor = AutoFeatureExtractor.from_pretrained(name, **options)
    said = []
    for auto in (AutoModelForAudioClassification, AutoModel):
        model = auto.from_pretrained(name, **options).eval()
        with torch.no_grad():
            said.append(model(**extractor(clips, sampling_rate=16_000, return_tensors="pt")).logits.tolist())
    classify = pipeline("audio-classification", model=name, **options)
    return [*said, [classify({"raw": clip, "sampling_rate": 16_000}, top_k=None) for clip in clips]]

for name, options in json.loads(sys.argv[1]):
    try:
        print(json.dumps(ask(name, **options)))
    except OSError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def answers(hub, pushes, trained_dir, tmp_path_factory):
    """What a process without this package says of the local folder, and of each repository."""
    done = hub.run(tmp_path_factory.mktemp("home"), "-c", BY_METHOD, trained_dir)
    assert done.returncode == 0, done.stderr
    asked = {
        "anonymous": ("me/secret", {"revision": "v1", "token": False}),  # before it is in the cache
        "local": (str(trained_dir), {}),
        "public": ("me/mood", {}),
        "private": ("me/secret", {"revision": "v1"}),
        "by method": ("me/other", {}),
    }
    done = hub.run(tmp_path_factory.mktemp("home"), "-c", STRANGER, json.dumps(list(asked.values())))
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("repository", ["public", "private", "by method"])
def test_a_stranger_has_the_local_folder_s_logits_from_the_hub(answers, repository):
    logits, other_logits, scores = answers[repository]
    assert logits == other_logits == answers["local"][0]
    assert scores == answers["local"][2]
    assert [len(clip) for clip in scores] == [4, 4]


def test_a_private_repository_is_not_there_for_a_stranger_without_the_token(answers):
    assert "me/secret is not a local folder and is not a valid model identifier" in answers["anonymous"]


def test_push_to_hub_of_model_and_extractor_uploads_their_code(hub, answers):
    assert set(hub.repos["model", "me/other"].files()) == REPOSITORY - {"scores.json", "confusion_matrix.png"}


# --- what is not whole -----------------------------------------------------------------------------------------------


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"preprocessor_config.json": None}, "lacks preprocessor_config.json, expected a complete model; save_pretr"),
        ({"scores.json": b"{}"}, "scores.json: KeyError: 'labels'; expected a file of train.py"),
        ({"encoder_whisper_emotion.py": None}, "lacks encoder_whisper_emotion.py"),
        ({"model.safetensors": None}, "no model to load"),
        ({"model.safetensors": b"cut"}, "no model to load"),
        ({"README.md": b"---\na: [\n---\n"}, "README.md: its metadata are not valid: "),
        ({"README.md": b"---\nmodel-index:\n- name: x\n---\n"}, "README.md: its metadata are not valid: "),
        ({"README.md": b"\xff"}, "README.md: its metadata are not valid: "),
    ],
)
def test_a_folder_that_is_not_whole_is_not_uploaded(trained_dir, tmp_path, spoil, said):
    folder = copy(trained_dir, tmp_path / "spoilt")
    for name, content in spoil.items():
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        prepare_upload(folder, "me/mood")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_prepare_upload_completes_metadata_and_keeps_the_text(trained_dir, tmp_path):
    folder = copy(trained_dir, tmp_path / "bare")
    text = "# Mine\n\nTrained at home.\n"
    (folder / "README.md").write_text(text)
    upload = prepare_upload(folder, "me/mood", CardOptions(base_model="openai/whisper-base"))
    card = ModelCard(upload.files["README.md"].decode())
    assert card.text.strip() == text.strip()
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "audio-classification")
    assert (card.data.base_model, card.data.license) == ("openai/whisper-base", None)
    assert upload.remarks == (
        "the model card states no language, license, datasets: set --language, --license, --datasets (train.py or "
        "push_to_hub.py)",
    )
    assert (folder / "README.md").read_text() == text


def test_prepare_upload_replaces_only_the_options_that_are_given(trained_dir):
    kept = prepare_upload(trained_dir, "me/mood").files["README.md"].decode()
    changed = prepare_upload(trained_dir, "me/mood", CardOptions(language="fa")).files["README.md"].decode()
    assert ModelCard(changed).text == ModelCard(kept).text
    assert ModelCard(changed).data.to_dict() == ModelCard(kept).data.to_dict() | {"language": "fa"}
