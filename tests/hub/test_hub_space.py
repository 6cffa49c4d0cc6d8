"""The demo as a Space: written by its script, pushed, and started from what the Hub holds in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_python, run_script

from whisper_emotion.errors import UserError
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.publishing import prepare_space

pytest.importorskip("gradio", reason="the demo page needs Gradio: pip install 'whisper-emotion[demo]'")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "push_to_hub.py"
ASK = """
import json, sys
from gradio_client import Client, handle_file
url, file, downloads = sys.argv[1:]
client = Client(url, verbose=False, download_files=downloads)
print(json.dumps(client.predict(handle_file(file), api_name="/label")[1]["value"]["confidences"]))
"""


@pytest.fixture(scope="module")
def space(trained_dir, tmp_path_factory):
    """What `demo.py --space` leaves behind."""
    folder = tmp_path_factory.mktemp("space") / "page"
    done = run_script("demo.py", "--model", trained_dir, "me/mood", "--space", folder, "--max_minutes", 2)
    # me/mood is not to be had here; what does not load is said, and nothing is written
    assert done.returncode == 2 and not folder.exists()
    assert "me/mood: is not a folder, and the Hub could not be reached" in done.stderr
    done = run_script("demo.py", "--model", trained_dir, "--space", folder, "--max_minutes", 2)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_folder_is_complete_and_holds_no_more_than_it_needs(space, trained_dir):
    assert {path.name for path in space.iterdir()} == {
        "README.md", "app.py", "models", "requirements.txt", "whisper_emotion",
    }  # fmt: skip
    assert {path.name for path in (space / "models" / trained_dir.name).iterdir()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert not list(space.rglob("__pycache__"))
    pinned = (space / "requirements.txt").read_text().splitlines()
    assert {"torch", "transformers", "soundfile"} <= {line.split("==")[0] for line in pinned}
    assert all(line.count("==") == 1 and "+" not in line for line in pinned)
    done = run_script("demo.py", "--model", trained_dir, "--space", space)
    assert done.returncode == 2 and f"--space {space}: exists, name a new folder" in done.stderr


@pytest.mark.slow
def test_the_hub_has_the_folder_and_it_runs_from_there(hub, space, trained_dir, synthetic_dir, tmp_path):
    done = hub.run(tmp_path, SCRIPT, "--space", space, "--repo_id", "me/page")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"uploaded: {hub.url}/")
    pushed = hub.repos["space", "me/page"].files()
    local = {path.relative_to(space).as_posix(): path.read_bytes() for path in space.rglob("*") if path.is_file()}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == local

    checkout, shadow = tmp_path / "checkout", tmp_path / "shadow"
    for name, content in pushed.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(content)
    shadow.mkdir()
    (shadow / "whisper_emotion.py").write_text("raise ImportError('not the package that the Space brings')")
    environment = hub.environment(tmp_path) | {"PYTHONPATH": str(shadow), "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    file = next(synthetic_dir.rglob("*.wav"))
    command = [sys.executable, str(checkout / "app.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as app:
        try:
            url = app.stdout.readline().split()[0]
            done = run_python("-c", ASK, url, file, tmp_path / "downloads")
        finally:
            app.terminate()
    assert done.returncode == 0, done.stderr
    (expected,) = EmotionClassifier(trained_dir)(file)
    assert {one["label"]: one["confidence"] for one in json.loads(done.stdout)} == pytest.approx(expected, abs=1e-4)


def test_only_a_space_is_pushed_as_one(space, trained_dir, tmp_path):
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match="is not a Gradio Space, expected a folder that demo.py --space wrote"):
        prepare_space(trained_dir, "me/page")
    with pytest.raises(UserError, match="gone: is not a folder"):
        prepare_space(tmp_path / "gone", "me/page")
    done = run_script("push_to_hub.py", "--repo_id", "me/page", "--space", space, "--model", trained_dir)
    assert done.returncode == 2 and "contains its models, leave out --model and --encoder" in done.stderr
    done = run_script("push_to_hub.py", "--repo_id", "me/page", "--space", space, "--dry_run")
    assert done.returncode == 0 and "app.py" in done.stdout and "left out" not in done.stdout
