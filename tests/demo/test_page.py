"""The page's server as programs see it: what it answers, and what it refuses."""

import json
import urllib.error
import urllib.request
import uuid

import numpy as np
import pytest
import soundfile

from whisper_emotion.errors import UserError
from whisper_emotion.inference import EmotionClassifier

gradio_client = pytest.importorskip("gradio_client", reason="needs Gradio: pip install 'whisper-emotion[demo]'")


@pytest.fixture(scope="module")
def client(demo_url, tmp_path_factory):
    return gradio_client.Client(demo_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def values(answer):
    """The page's contents, and whether each is shown."""
    said, *shown = answer
    return said, [part["value"] if part["visible"] else None for part in shown]


def ask(client, file):
    return values(client.predict(gradio_client.handle_file(str(file)), api_name="/label"))


def test_the_answer_is_the_classifiers(client, model_dir, synthetic_dir):
    file = next(synthetic_dir.rglob("*.wav"))
    said, (bars, attention, image, *timeline) = ask(client, file)
    assert 'role="status"' in said and "labelled whole" in said
    (expected,) = EmotionClassifier(model_dir)(file)
    assert bars["label"] == next(iter(expected))
    assert {one["label"]: one["confidence"] for one in bars["confidences"]} == pytest.approx(expected, abs=1e-5)
    assert attention.startswith("<h2>Which moment decided</h2><p>Whole recording: ")
    assert image.endswith(".png")
    assert timeline == [None, None]


def test_a_bad_file_and_silence_are_answered_in_words(client, tmp_path):
    (tmp_path / "a&b.wav").write_text("no sound")
    said, shown = ask(client, tmp_path / "a&b.wav")
    assert 'role="alert"' in said and "b.wav: cannot be decoded" in said
    assert "/" not in said.replace("</p>", "") and set(shown) == {None}
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    said, shown = ask(client, tmp_path / "silent.wav")
    assert "Silence: the loudest moment of these 1 s" in said and set(shown) == {None}


def test_who_sends_nothing_is_told_what_to_do(client):
    said, shown = values(client.predict(None, api_name="/label"))
    assert "There is no recording yet: record or upload one." in said and shown == [None] * 5


def test_a_defect_is_said_without_its_details(client, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("whisper_emotion.demo.page.listen", fail)
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    said, shown = ask(client, tmp_path / "a.wav")
    assert "Something went wrong here" in said and "secret" not in said and set(shown) == {None}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/etc/hostname", None),
        ("../../../../../etc/hostname", None),
        ("http://127.0.0.1:9/a.wav", "A recording must be uploaded, not named by its address."),
    ],
)
def test_neither_files_of_the_server_nor_addresses_are_opened(demo_url, place, said):
    session = uuid.uuid4().hex
    file = {"path": place, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, "model"], "fn_index": 0, "session_hash": session}
    post(f"{demo_url}gradio_api/queue/join", json.dumps(body).encode(), "application/json")
    with urllib.request.urlopen(f"{demo_url}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        events = [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    (done,) = (event for event in events if event["msg"] == "process_completed")
    assert (done["success"], done["output"]["error"]) == (False, said)


def post(url, body, kind):
    return urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=60)


def test_uploads_are_limited(demo_url):
    def upload(size):
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n' + bytes(size)
        with post(
            f"{demo_url}gradio_api/upload", body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
        ) as answer:
            return json.load(answer)

    assert len(upload(4 * 2**20 - 1)) == 1
    with pytest.raises(urllib.error.HTTPError) as error:
        upload(4 * 2**20 + 1)
    assert error.value.code == 413


def test_there_is_one_endpoint_and_it_cannot_be_called_past_the_queue(client, demo_url):
    endpoints = client.view_api(return_format="dict")
    assert list(endpoints["named_endpoints"]) == ["/label"] and not endpoints["unnamed_endpoints"]
    with pytest.raises(urllib.error.HTTPError) as error:
        post(f"{demo_url}gradio_api/run/label", b'{"data": [null, "model"]}', "application/json")
    assert error.value.code == 404


def test_models_of_one_name_are_refused(model_dir, tmp_path):
    from whisper_emotion.demo.page import load_models

    (tmp_path / "mine").symlink_to(model_dir)
    assert list(load_models([f"{tmp_path}/mine/", str(model_dir)])) == ["mine", model_dir.name]
    with pytest.raises(UserError, match=f"another one is named {model_dir.name}, too"):
        load_models([str(model_dir), str(model_dir)])


def test_a_device_that_is_not_here_is_refused(model_dir):
    from whisper_emotion.demo.page import load_models

    with pytest.raises(UserError, match="--device tpu: does not exist"):
        load_models([str(model_dir)], "tpu")


def test_a_port_that_is_taken_is_named(demo_url, model_dir):
    from whisper_emotion.demo.page import run_page

    port = int(demo_url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(UserError, match=f"--port {port}: cannot be listened on, name another"):
        run_page([str(model_dir)], 1, 1, port=port)


def test_an_unsure_label_is_not_shouted(model_dir, tmp_path):
    from whisper_emotion.demo.listening import Account
    from whisper_emotion.demo.page import EXAMPLES, EXAMPLES_DIR, _contents

    for example in EXAMPLES.values():
        assert 3 < soundfile.info(EXAMPLES_DIR / example).duration < 6
    said, bars, *_ = _contents(Account("Unsure: low probability.", {"sad": 0.4, "angry": 0.6}, "low probability"))
    assert 'class="unsure"' in said and not bars["show_heading"]
    said, bars, *_ = _contents(Account("1 s, labelled whole.", {"sad": 0.4, "angry": 0.6}))
    assert 'class="right"' in said and bars["show_heading"]
