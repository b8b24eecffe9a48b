"""The web page: its files, and what people see of it in Chromium, with the model that ships."""

import base64
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.datastructures import Headers

from asr import audio
from asr.cli import main
from asr.inference import writers
from asr.inference.transcriber import TranscribeOptions, Transcriber, load_model
from asr.serve import pages
from asr.serve.app import OPEN_PATHS
from asr.serve.limits import KeyCheck
from asr.serve.openai import ApiError
from tests.serve.conftest import TEXT, Running, Start, recording, running

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright")), reason="needs chromium and the package playwright"
)
FORMATS = ("txt", "srt", "vtt", "json")
SPEAKER = "test/en-gb-x-gbclan_Denis_54"
KEY = "open sesame"


# --------------------------------------------------------------------------------------------- the files


def test_files_are_served_by_name_and_kept_by_browsers(server: Running) -> None:
    for path, name in pages.FILES.items():
        found = server.get(path)
        assert (found.status_code, found.content) == (200, (pages.FOLDER / name).read_bytes())
        assert found.headers["x-content-type-options"] == "nosniff"
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        again = server.get(path, if_none_match=found.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == found.headers["etag"]
    for path in ("/index.html", "/page/app.js", "/../pages.py", "/%2e%2e/pages.py", "/app.py"):
        assert server.get(path).status_code == 404


def test_files_are_small_and_name_no_other_host() -> None:
    paths = list(pages.FOLDER.iterdir())
    assert {path.name for path in paths} == set(pages.FILES.values())
    assert sum(path.stat().st_size for path in paths) <= 60_000
    for path in paths:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "").replace("http://localhost:", "")
        assert not re.search(r"(https?:)?//\w+\.\w", text) and "innerHTML" not in text


def test_the_page_is_open_but_a_websocket_at_its_address_is_not(start: Start) -> None:
    with start(key=KEY) as server:
        server.headers.clear()
        assert all(server.get(path).status_code == 200 for path in pages.FILES)
        assert server.get("/v1/models").status_code == 401
    with pytest.raises(ApiError, match="key"):
        KeyCheck(KEY, OPEN_PATHS)({"type": "websocket", "path": "/"}, Headers())


@pytest.mark.parametrize("stream", ["true", "false"])
def test_files_of_a_transcript_are_those_of_the_command(
    server: Running, standin_bundle: Path, tmp_path: Path, stream: str
) -> None:
    (tmp_path / "a.wav").write_bytes(recording())
    formats = [argument for kind in FORMATS for argument in ("--format", kind)]
    folder = os.path.relpath(tmp_path)
    assert main(["transcribe", "--raw", "--model", str(standin_bundle), *formats, f"{folder}/a.wav"]) == 0
    answer = server.post(recording(), include__="files", stream=stream).text
    found = json.loads(answer.splitlines()[-2].removeprefix("data: ") if stream == "true" else answer)
    written = {kind: (tmp_path / f"a.{kind}").read_text() for kind in FORMATS}
    written["json"] = written["json"].replace(f"{folder}/", "")
    assert found["files"] == written and found["text"] == TEXT
    assert server.post(recording(), include__="files", response_format="srt").status_code == 400


# -------------------------------------------------------------------------------------------- in a browser


RAW = TranscribeOptions(raw=True)


def speech() -> list[np.ndarray]:
    """Spoken digits, of one voice."""
    with tarfile.open(ROOT / "data_prep" / "data" / "digits.tar.gz") as archive:
        names = sorted(name for name in archive.getnames() if SPEAKER in name and name.endswith(".opus"))
        return [audio.read(io.BytesIO(archive.extractfile(name).read())) for name in names[:4]]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of some seconds, which ends in silence."""
    pause = np.zeros(12_000, np.float32)
    path = tmp_path_factory.mktemp("page") / "talk.wav"
    clips = speech()
    soundfile.write(path, np.concatenate([clips[0], pause, clips[3], pause]), 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def box() -> Transcriber:
    return load_model(threads=2)


@pytest.fixture(scope="module")
def here(box: Transcriber) -> Iterator[Running]:
    with running(box) as found:
        yield found


@pytest.fixture(scope="module")
def text(here: Running, talk: Path) -> str:
    """The server's own transcript of the recording."""
    found: str = here.post(talk.read_bytes(), talk.name, response_format="text").text.strip()
    assert len(found.split()) > 3
    return found


@pytest.fixture(scope="module")
def browser(talk: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

    microphone = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={talk}%noloop"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *microphone])
        yield found
        found.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, here: Running) -> Iterator[Open]:
    """Open the page. At the end: no error was logged, and nothing was requested from elsewhere."""
    logged: list[str] = []
    addresses: list[str] = []
    contexts: list[Any] = []

    def opened(
        server: Running = here, microphone: bool = False, script: str = "", quiet: bool = True, **options: Any
    ) -> Any:
        contexts.append(context := browser.new_context(**options))
        if microphone:
            context.grant_permissions(["microphone"])
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(15_000)
        if quiet:
            page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.on("websocket", lambda socket: addresses.append(socket.url.replace("ws", "http", 1)))
        page.goto(f"{server.url}/")
        page.wait_for_selector("#model:not(:empty)")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not logged
    assert all(re.match(r"blob:|http://127\.0\.0\.1:\d+/", address) for address in addresses)


def drop(page: Any, name: str, content: bytes) -> None:
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt())], name));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def words(page: Any) -> list[str]:
    """Words of the newest transcript, once it is there."""
    page.wait_for_selector(".card:first-child .word")
    found: list[str] = page.locator(".card:first-child .word").all_text_contents()
    return found


def alike(first: list[str], second: list[str]) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@NEEDS_CHROMIUM
def test_a_dropped_file_becomes_text_and_downloads(
    open_page: Open, box: Transcriber, talk: Path, text: str
) -> None:
    page = open_page()
    drop(page, talk.name, talk.read_bytes())
    assert " ".join(words(page)) == text
    transcript = box.transcribe(talk, options=RAW)
    for kind in FORMATS:
        with page.expect_download() as started:
            page.click(f"[data-format={kind}]")
        assert started.value.suggested_filename == f"talk.{kind}"
        assert Path(started.value.path()).read_text() == writers.FORMATS[kind](transcript, Path(talk.name))


@NEEDS_CHROMIUM
def test_a_click_on_a_word_plays_from_there(open_page: Open, box: Transcriber, talk: Path) -> None:
    page = open_page()
    page.set_input_files("#files", talk)
    last = box.transcribe(talk, options=RAW).words[-1]
    page.locator(".word").last.click()
    time_ = "document.querySelector('audio').currentTime"
    until(lambda: page.evaluate(time_) > last.start)
    assert page.evaluate(time_) < last.start + 2
    assert page.locator(".word.now").text_content() == last.text


@NEEDS_CHROMIUM
def test_several_files_and_one_that_is_damaged(open_page: Open, talk: Path, text: str) -> None:
    name = "<img src=x onerror=alert(1)> & Söhne.wav"
    page = open_page(quiet=False)  # Chromium logs status 400
    page.set_input_files(
        "#files",
        [
            {"name": name, "mimeType": "audio/wav", "buffer": talk.read_bytes()},
            {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"these are no samples"},
        ],
    )
    assert " ".join(words(page)) == text
    assert page.locator(".card h2").all_text_contents() == [name, "notes.wav"]
    assert "notes.wav" in page.locator(".problem [role=alert]:visible").text_content()
    assert page.locator("main img").count() == 0
    page.locator(".remove").last.click()
    assert page.locator(".card").count() == 1


@NEEDS_CHROMIUM
def test_live_captions_and_the_recording_after_them(open_page: Open, text: str) -> None:
    page = open_page(microphone=True)
    page.click("#record")
    page.wait_for_selector(".live .unstable:not(:empty)")
    found = ""

    def finished() -> bool:
        nonlocal found
        found = " ".join(page.locator(".live .stable").all_text_contents())
        return alike(found.split(), text.split()) >= 0.6

    until(finished, 15)
    page.click("#record")
    assert alike(words(page), text.split()) >= 0.6
    assert page.locator("h2").first.text_content().startswith("Recording ")
    assert page.locator("#record").text_content().strip() == "Record"


@NEEDS_CHROMIUM
def test_a_recording_without_captions_goes_on(open_page: Open, start: Start) -> None:
    with start(live=0) as server:
        page = open_page(server, microphone=True, quiet=False)  # Chromium logs the refusal
        page.click("#record")
        page.wait_for_selector(".problem:has-text('No live captions')")
        page.wait_for_selector(".status:has-text('Recording 0:01')")
        page.click("#record")
        page.wait_for_selector(".card footer")
        assert not page.locator(".problem").is_visible()


@NEEDS_CHROMIUM
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "refused"),
        ("Object.defineProperty(Navigator.prototype, 'mediaDevices', { value: undefined })", "localhost"),
    ],
)
def test_without_a_microphone_the_page_says_why(open_page: Open, script: str, reason: str) -> None:
    page = open_page(script=script)
    page.click("#record")
    page.wait_for_selector("#notice:visible")
    notice = page.locator("#notice").text_content()
    assert reason in notice and "choose a recording" in notice
    assert page.locator(".card").count() == 0 and page.locator("#choose").is_visible()


@NEEDS_CHROMIUM
def test_keyboard_alone_is_enough(open_page: Open, talk: Path, text: str) -> None:
    page = open_page()
    page.on("filechooser", lambda chooser: None)  # else Chromium may not tell of the first one
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # settings
    page.keyboard.press("Tab")
    page.keyboard.type("seven")
    page.keyboard.press("Escape")
    assert not page.locator("#settings").is_visible()
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(talk)
    count = len(words(page))
    assert page.evaluate("localStorage.hotwords") == "seven"
    page.locator(".remove").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == page.locator(".word").nth(count - 1).text_content()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("document.querySelector('audio').currentTime") > 1)


@NEEDS_CHROMIUM
def test_a_phone_needs_no_scrolling_to_the_side(open_page: Open, talk: Path) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.set_input_files("#files", talk)
    words(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.tap("#open-settings")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@NEEDS_CHROMIUM
def test_busy_servers_are_asked_again_and_lost_ones_reported(
    open_page: Open, start: Start, talk: Path
) -> None:
    with start(max_bytes=100) as server:
        page = open_page(server)
        page.set_input_files("#files", talk)
        page.wait_for_selector(".problem:has-text('larger than')")
    page = open_page(quiet=False)
    busy = {"error": {"message": "the server is busy", "type": "server_error", "param": None, "code": "busy"}}
    page.route(
        "**/v1/audio/transcriptions",
        lambda route: route.fulfill(status=503, json=busy, headers={"retry-after": "1"}),
        times=1,
    )
    page.set_input_files("#files", talk)
    page.wait_for_selector(".status:has-text('busy')")
    words(page)
    page.context.set_offline(True)
    page.set_input_files("#files", talk)
    page.wait_for_selector(".problem:has-text('cannot be reached')")
    page.context.set_offline(False)
    page.locator(".again:visible").click()
    words(page)


@NEEDS_CHROMIUM
def test_a_key_is_asked_for_where_one_is_needed(open_page: Open, start: Start) -> None:
    with start(key="sesame") as server:
        page = open_page(server, quiet=False)
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        drop(page, "a.wav", recording())
        assert words(page) == TEXT.split()
