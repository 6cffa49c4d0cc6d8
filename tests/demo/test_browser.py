"""The demo page as people use it: in a real Chromium, on a phone and on a desk."""

import os
import re
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from whisper_emotion.inference import EmotionClassifier

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium: apt-get install chromium")

WAIT = 120_000  # milliseconds, on a machine that is busy with other things


@pytest.fixture(scope="module")
def chromium():
    """The browser, with a microphone that beeps."""
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # which the superuser has none of
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(params=["phone", "desk"])
def page(request, chromium, demo_url):
    """The page, open, in a light window of a phone's size or a dark one of a screen's; it asks no other server."""
    phone = request.param == "phone"
    context = chromium.new_context(
        viewport={"width": 375, "height": 812} if phone else {"width": 1280, "height": 800},
        color_scheme="light" if phone else "dark", has_touch=phone,
    )  # fmt: skip
    context.set_default_timeout(WAIT)
    page = context.new_page()
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(demo_url)
    page.wait_for_selector("input[type=file]", state="attached")
    yield page
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(demo_url).netloc
    }
    context.close()


def upload(page, file):
    page.set_input_files("input[type=file]", file)


def shown(page):
    """The bars: percent by label, in the page's order."""
    text = page.get_by_test_id("label").inner_text()
    return {label: int(percent) for label, percent in re.findall(r"^(\S+)\n+(\d+)%$", text, flags=re.MULTILINE)}


def look(page, path):
    """Take a picture of all of the page; something is on it, and nothing beside it."""
    page.screenshot(path=path, full_page=True)
    assert imread(path).std() > 0.05
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


def test_an_upload_is_labelled_and_explained(page, model_dir, synthetic_dir, tmp_path):
    file = next(synthetic_dir.rglob("*.wav"))
    look(page, tmp_path / "empty.png")
    page.get_by_role("button", name="Name the emotion").click()
    page.get_by_role("status").get_by_text("There is no recording yet: record or upload one.").wait_for()
    upload(page, file)
    page.get_by_text("labelled whole.").wait_for()
    (expected,) = EmotionClassifier(model_dir)(file)
    assert page.get_by_test_id("label-output-value").inner_text() == next(iter(expected))
    assert list(shown(page)) == list(expected)
    assert shown(page) == pytest.approx({label: 100 * part for label, part in expected.items()}, abs=0.51)
    assert page.get_by_role("heading", name="Which moment decided").is_visible()
    assert not page.get_by_role("heading", name="Emotion over time").is_visible()
    picture = page.get_by_alt_text("Whole recording: ")
    picture.wait_for()
    page.wait_for_function("image => image.complete && image.naturalWidth > 600", arg=picture.element_handle())
    look(page, tmp_path / "labelled.png")


def test_an_example_is_labelled_with_one_click(page, tmp_path):
    page.get_by_role("button", name="Example: fast and high").click()
    page.get_by_text("3.4 s, labelled whole.").wait_for()
    assert len(shown(page)) == 3
    look(page, tmp_path / "example.png")


def test_a_long_upload_is_labelled_over_time(page, tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 40 * 16_000).clip(-1, 1), 16_000)
    upload(page, tmp_path / "a.flac")
    page.get_by_text("The mean over 40 s in windows of 4 s.").wait_for()
    page.get_by_alt_text("Windows of 4 s every 2 s, overlaps averaged.").wait_for()
    assert page.get_by_role("heading", name="Emotion over time").is_visible()
    look(page, tmp_path / "long.png")


def test_what_is_wrong_with_a_file_is_said_in_words_and_the_next_is_labelled(page, synthetic_dir, tmp_path):
    (tmp_path / "letter.wav").write_text("Dear Sir or Madam")
    upload(page, tmp_path / "letter.wav")
    page.get_by_role("alert").get_by_text("letter.wav: cannot be decoded").wait_for()
    assert page.get_by_test_id("label-output-value").count() == 0
    assert "Traceback" not in page.inner_text("body") and "/tmp" not in page.inner_text("body")
    look(page, tmp_path / "wrong.png")

    page.get_by_label("Clear").click()
    page.get_by_role("alert").wait_for(state="detached")
    (tmp_path / "large.wav").write_bytes(bytes(5 * 2**20))
    upload(page, tmp_path / "large.wav")
    page.get_by_text('File(s) exceed the maximum allowed size of 4.0 Mb: "large.wav"').wait_for()
    look(page, tmp_path / "large.png")

    upload(page, next(synthetic_dir.rglob("*.wav")))
    page.get_by_test_id("label-output-value").wait_for()


def test_what_is_recorded_is_labelled(page, tmp_path):
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_test_id("label-output-value").wait_for()
    assert sum(shown(page).values()) == pytest.approx(100, abs=2)
    look(page, tmp_path / "recorded.png")
