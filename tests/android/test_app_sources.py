"""What can be checked in the sources of the Android app: words, labels, manifest, limits."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DEMO = Path(__file__).parent.parent.parent / "android_demo"
RESOURCES = DEMO / "app/src/main/res"
ANDROID = "{http://schemas.android.com/apk/res/android}"
KOTLIN = sorted(DEMO.glob("*/src/**/*.kt"))
MAX_FILE, MAX_FUNCTION = 500, 80


def strings(folder: str) -> dict[str, str]:
    root = ElementTree.parse(RESOURCES / folder / "strings.xml").getroot()
    return {entry.attrib["name"]: "".join(entry.itertext()) for entry in root}


def test_chinese_has_every_word_of_english() -> None:
    english, chinese = strings("values"), strings("values-zh")
    assert list(english) == list(chinese)
    for name, text in english.items():
        placeholders = [
            sorted(re.findall(r"%\d\$\S?[\d.]*[sdf]", one)) for one in (text, chinese[name])
        ]
        assert placeholders[0] == placeholders[1], name
    untranslated = {name for name in english if english[name] == chinese[name]}
    assert untranslated == {"app_name"}


def test_every_word_is_used() -> None:
    sources = [*KOTLIN, *RESOURCES.rglob("*.xml"), DEMO / "app/src/main/AndroidManifest.xml"]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    unused = [
        name
        for name in strings("values")
        if not re.search(rf"R\.string\.{name}\b|@string/{name}\b", text)
    ]
    assert unused == []


@pytest.mark.parametrize("path", sorted(RESOURCES.glob("layout/*.xml")), ids=lambda path: path.stem)
def test_a_screen_reader_can_name_every_control(path: Path) -> None:
    for element in ElementTree.parse(path).getroot().iter():
        labels = {"contentDescription", "text", "hint"}
        label = next(
            (element.get(ANDROID + name) for name in labels if element.get(ANDROID + name)), None
        )
        if element.tag in {"ImageButton", "Button", "EditText", "TextureView"}:
            assert label and label.startswith("@string/"), element.attrib
        assert label is None or label.startswith("@string/"), "words are in strings.xml"


def test_touch_targets_are_large_enough() -> None:
    """Android's guideline is 48 dp. Buttons with words have it from the theme."""
    styles = ElementTree.parse(RESOURCES / "values/styles.xml").getroot()
    icon = next(style for style in styles if style.get("name") == "IconButton")
    sizes = {item.get("name"): item.text for item in icon}
    assert sizes["android:layout_width"] == sizes["android:layout_height"] == "48dp"
    for path in RESOURCES.glob("layout/*.xml"):
        for button in ElementTree.parse(path).getroot().iter("ImageButton"):
            assert button.get("style") == "@style/IconButton"


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_text_can_be_read_in_both_themes(folder: str) -> None:
    """WCAG asks for a contrast of 4.5."""
    root = ElementTree.parse(RESOURCES / folder / "colors.xml").getroot()
    colors = {entry.attrib["name"]: entry.text or "" for entry in root}
    page = "#FFFFFF" if folder == "values" else "#121212"
    pairs = [("on_bubble", colors[name]) for name in ("question", "answer", "notice")]
    for name, background in [*pairs, ("quiet", page), ("accent", page)]:
        lights = sorted((luminance(colors[name]), luminance(background)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, (name, background)


def test_only_the_first_screen_can_be_started_by_others() -> None:
    manifest = ElementTree.parse(DEMO / "app/src/main/AndroidManifest.xml").getroot()
    application = manifest.find("application")
    assert application is not None
    parts = [part for part in application if part.tag in {"activity", "service", "provider"}]
    exported = [
        part.get(ANDROID + "name") for part in parts if part.get(ANDROID + "exported") == "true"
    ]
    assert exported == [".ChatActivity"]
    assert all(part.get(ANDROID + "exported") for part in parts)
    assert application.get(ANDROID + "allowBackup") == "false"
    names = {path.stem for path in KOTLIN}
    assert {str(part.get(ANDROID + "name"))[1:] for part in parts} <= names


@pytest.mark.parametrize("path", KOTLIN, ids=lambda path: path.stem)
def test_kotlin_sizes(path: Path) -> None:
    """The limits of tests/test_house.py, for Kotlin. Functions end where their indentation does."""
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MAX_FILE
    for number, line in enumerate(lines):
        if match := re.match(r"(\s*)(?:[\w@]+ )*fun .*[{(]$", line):
            end = re.compile(rf"{match[1]}[}})]")
            length = next(i for i, later in enumerate(lines[number + 1 :], 2) if end.match(later))
            assert length <= MAX_FUNCTION, line.strip()


@pytest.mark.parametrize("folder", ["engine", "presenters"])
def test_engine_and_presenters_do_not_know_android(folder: str) -> None:
    for path in (DEMO / folder).rglob("*.kt"):
        assert not re.search(r"\bandroidx?\.", path.read_text("utf-8")), path
