"""The page in a real Chromium, with a recording as its microphone."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from omni_runtime.wav import pcm16, wav_header
from server.running import Running

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RATE = 48_000
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def microphone(folder: Path, *pieces: np.ndarray) -> Path:
    """Chromium loses the first 0.1 s and repeats the end, so both are silent."""
    silent = np.zeros(20 * RATE, np.float32)
    samples = np.concatenate([np.zeros(round(1.5 * RATE), np.float32), *pieces, silent])
    data = pcm16(samples * np.float32(0.5))
    path = folder / "microphone.wav"
    path.write_bytes(wav_header(RATE, len(data)) + data)
    return path


@contextmanager
def opened(server: Running, recording: Path | None = None, **options) -> Iterator[Page]:
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             "--autoplay-policy=no-user-gesture-required", "--no-sandbox"]  # fmt: skip
    if recording is not None:
        flags.append(f"--use-file-for-fake-audio-capture={recording}%noloop")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(permissions=["microphone", "camera"], **options)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda line: problems.append(line.text) if line.type == "error" else None,
        )
        page.goto(server.url)
        yield page
        browser.close()
    # Chromium logs the answer that makes the page ask for a key.
    assert not [line for line in problems if "401" not in line], problems


def test_ask_and_hear(server: Running, recording: Callable, tmp_path: Path) -> None:
    """A spoken question; the page's own loudspeaker is recorded and heard to speak."""
    asked = microphone(tmp_path, recording("seven_plus_five", RATE))
    with opened(server, asked) as page:
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#captions")).to_contain_text(
            "Seven plus five is twelve.", timeout=20_000
        )
        expect(page.locator("#figures")).to_contain_text("first sound", timeout=10_000)
        expect(page.get_by_role("button", name="Stop")).to_have_attribute("aria-pressed", "true")
        seconds = float(page.locator("#figures").inner_text().split()[-2])
        assert 0 < seconds < 5
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_a_voice_interrupts(server: Running, recording: Callable, tmp_path: Path) -> None:
    pause = np.zeros(round(0.5 * RATE), np.float32)
    voice = microphone(tmp_path, *[pause] * 2, recording("seven_plus_five", RATE))
    with opened(server, voice) as page:
        page.get_by_role("button", name="Start").click()
        page.get_by_label("Message").fill("Count from one to ten.")
        page.get_by_role("button", name="Send").click()
        struck = page.locator("#captions s")
        expect(struck).to_contain_text("ten", timeout=20_000)
        heard = page.locator("#captions .reply").first.inner_text()
        assert heard.startswith("One")


def test_typed_with_a_picture(server: Running, tmp_path: Path) -> None:
    from PIL import Image as Picture  # noqa: PLC0415

    picture = tmp_path / "red.png"
    Picture.new("RGB", (64, 64), "red").save(picture)
    with opened(server) as page:
        page.locator("#file").set_input_files(picture)
        expect(page.locator("#attached")).to_contain_text("red.png")
        page.get_by_label("Message").fill("What do you see?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator("#captions .reply")).not_to_be_empty(timeout=20_000)
        expect(page.locator("#captions img")).to_have_count(1)


def test_camera_and_push_to_talk(server: Running, recording: Callable, tmp_path: Path) -> None:
    asked = microphone(tmp_path, recording("color_of_the_sky", RATE))
    with opened(server, asked) as page:
        page.get_by_label("Camera", exact=True).check()
        expect(page.get_by_label("Camera preview")).to_be_visible()
        page.get_by_label("Hands-free").uncheck()
        page.get_by_role("button", name="Start").click()
        button = page.get_by_role("button", name="Hold to talk")
        box = button.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.wait_for_timeout(4500)
        page.mouse.up()
        expect(page.locator("#captions .reply")).not_to_be_empty(timeout=20_000)


def test_a_key_is_asked_for(run_server: Callable[..., Running]) -> None:
    server = run_server(api_keys=("secret",))
    with opened(server) as page:
        page.get_by_label("Message").fill("Hello!")
        page.get_by_role("button", name="Send").click()
        page.get_by_label("This server asks for a key").fill("secret")
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#captions .reply")).not_to_be_empty(timeout=20_000)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 360)])
def test_accessible_in_each_scheme_and_width(server: Running, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    size = {"width": width, "height": 760}
    with opened(server, color_scheme=scheme, viewport=size, bypass_csp=True) as page:
        page.get_by_label("Message").fill("Hello!")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#captions .reply")).not_to_be_empty(timeout=20_000)
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], one["help"]) for one in serious]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_can_be_reached_with_the_keyboard(server: Running) -> None:
    with opened(server) as page:
        page.locator("h1").click()
        reached = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
    assert {"talk", "hands-free", "mute", "camera", "text", "file", "voice"} <= reached
