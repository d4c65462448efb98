"""What the screens ask of their layouts and words. On a phone, a wrong answer ends the app."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

MAIN = Path(__file__).parent.parent.parent / "android_demo/app/src/main"
ID = "{http://schemas.android.com/apk/res/android}id"
SOURCES = sorted(MAIN.rglob("*.kt"))
PARENTS = {
    "View": None,
    "TextView": "View",
    "Button": "TextView",
    "EditText": "TextView",
    "ImageView": "View",
    "ImageButton": "ImageView",
    "ProgressBar": "View",
    "TextureView": "View",
    "ViewGroup": "View",
    "LinearLayout": "ViewGroup",
    "ListView": "ViewGroup",
    "ScrollView": "ViewGroup",
}


def views(layout: str) -> dict[str, str]:
    """Return the class of each view in a layout, by id. Included layouts belong to it."""
    found: dict[str, str] = {}
    for element in ElementTree.parse(MAIN / f"res/layout/{layout}.xml").getroot().iter():
        if element.tag == "include":
            found |= views(element.attrib["layout"].removeprefix("@layout/"))
        elif name := element.get(ID):
            found[name.removeprefix("@+id/")] = element.tag
    return found


def is_a(kind: str | None, wanted: str) -> bool:
    return kind is not None and (kind == wanted or is_a(PARENTS[kind], wanted))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_views_exist_and_have_the_expected_class(path: Path) -> None:
    text = path.read_text("utf-8")
    layouts = re.findall(r"(?:setContentView|inflate)\(R\.layout\.(\w+)", text)
    known = {name: kind for layout in layouts for name, kind in views(layout).items()}
    if path.stem == "NoticeBar":  # part of every screen that includes its layout
        known = views("notice")
    fields = dict(re.findall(r"lateinit var (\w+): (\w+)", text))
    assigned = [
        (fields[field], name)
        for field, name in re.findall(r"(\w+) = findViewById\(R\.id\.(\w+)\)", text)
    ]
    asked = re.findall(r"findViewById<(\w+)>\(R\.id\.(\w+)\)", text) + assigned
    assert len(asked) == len(re.findall(r"findViewById\b.*?\(R\.", text))
    for wanted, name in asked:
        assert is_a(known.get(name), wanted), f"{name} is a {known.get(name)}, not a {wanted}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_words_get_as_many_values_as_they_have_places(path: Path) -> None:
    root = ElementTree.parse(MAIN / "res/values/strings.xml").getroot()
    places = {
        entry.attrib["name"]: len(set(re.findall(r"%(\d)\$", "".join(entry.itertext()))))
        for entry in root
    }
    text = path.read_text("utf-8")
    for match in re.finditer(r"getString\(R\.string\.(\w+)", text):
        assert values(text[match.end() :]) == places[match[1]], match[0]
    for name in re.findall(r"(?<!getString\()R\.string\.(\w+)", text):
        if not name.startswith("notice_"):  # Texts.kt gives them the values of their notice
            assert places[name] == 0, name


def values(rest: str) -> int:
    """Return the number of arguments before the closing parenthesis."""
    depth, count = 0, 0
    for sign in rest:
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            if depth == 0:
                return count
            depth -= 1
        elif sign == "," and depth == 0:
            count += 1
    raise AssertionError(rest)


def test_notices_are_given_as_many_values_as_their_words_have_places() -> None:
    """The words of NO_SPACE are notice_no_space, and so on."""
    root = ElementTree.parse(MAIN / "res/values/strings.xml").getroot()
    places = {
        entry.attrib["name"].removeprefix("notice_").upper(): len(
            set(re.findall(r"%(\d)\$", "".join(entry.itertext())))
        )
        for entry in root
        if entry.attrib["name"].startswith("notice_")
    }
    used: set[str] = set()
    for path in sorted(MAIN.parents[2].glob("*/src/main/**/*.kt")):
        text = path.read_text("utf-8")
        for match in re.finditer(r"(?:Notice\.of|NoticeException)\(NoticeKey\.(\w+)", text):
            assert values(text[match.end() :]) == places[match[1]], f"{path.name}: {match[0]}"
            used.add(match[1])
    assert places.keys() == used


def test_menu_items_are_handled() -> None:
    menu = ElementTree.parse(MAIN / "res/menu/chat.xml").getroot()
    text = (MAIN / "kotlin/org/pocketomni/app/ChatActivity.kt").read_text("utf-8")
    for item in menu:
        assert f"R.id.{item.attrib[ID].removeprefix('@+id/')} -> " in text
