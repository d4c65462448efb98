"""Compile the app's resources and manifest with aapt2 against Debian's framework of API 29."""

import re
import struct
import zipfile
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.process import find, run
from toolchain.project import ROOT
from toolchain.versions import version

PACKAGE = "org.pocketomni.app"
MAIN = ROOT / "app" / "src" / "main"
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
SERVICE_TYPE = 0x01010599
"""The resource id of `android:foregroundServiceType`."""
PHONE_CALL, MICROPHONE = 0x04, 0x80
"""API 29 does not know the type `microphone`, which phones with API 30 and later demand. aapt2
writes another type, and `set_microphone` replaces its value."""


def build_resources(folder: Path) -> tuple[Path, Path]:
    """Write an APK with manifest and resources, and a jar with the R class, to `folder`."""
    if not FRAMEWORK.is_file():
        raise OmniError(f"{FRAMEWORK} is missing", fix="apt-get install android-framework-res")
    aapt2 = find("aapt2", "aapt")
    compiled, linked = folder / "compiled.zip", folder / "resources.apk"
    manifest, java = folder / "AndroidManifest.xml", folder / "java"
    run([aapt2, "compile", "--dir", MAIN / "res", "-o", compiled])
    # Gradle takes the package name from its own settings
    source = (MAIN / "AndroidManifest.xml").read_text("utf-8")
    source = source.replace("<manifest ", f'<manifest package="{PACKAGE}" ', 1)
    source = source.replace('ServiceType="microphone"', 'ServiceType="phoneCall"')
    manifest.write_text(source, "utf-8")
    options = {
        "-I": FRAMEWORK,
        "--manifest": manifest,
        "--java": java,
        "--min-sdk-version": version("min-sdk"),
        "--target-sdk-version": version("target-sdk"),
        "--version-code": version("application-code"),
        "--version-name": version("application-name"),
        "-o": linked,
    }
    words = [word for pair in options.items() for word in pair]
    run([aapt2, "link", "--no-version-vectors", *words, compiled])
    return linked, _resource_classes(folder, java)


def _resource_classes(folder: Path, sources: Path) -> Path:
    """Compile R.java. Its jar is the same for the same resources."""
    classes, jar = folder / "classes", folder / "resources.jar"
    files = sorted(sources.rglob("*.java"))
    run(
        [
            find("javac", "openjdk-17-jdk-headless"),
            "--release",
            "8",
            "-nowarn",
            "-Xlint:-options",
            "-d",
            classes,
            *files,
        ]
    )
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(classes.rglob("*.class")):
            archive.writestr(
                zipfile.ZipInfo(path.relative_to(classes).as_posix()), path.read_bytes()
            )
    return jar


def set_microphone(manifest: bytes) -> bytes:
    """Return a binary manifest whose service has the type `microphone`. Raises OmniError."""
    name = _resource_ids(manifest).index(SERVICE_TYPE)
    # an attribute is its name, its text, and a value of 8 bytes of type 0x11: flags
    before = (
        re.escape(struct.pack("<I", name)) + b".{4}" + re.escape(struct.pack("<HBB", 8, 0, 0x11))
    )
    pattern = re.compile(b"(" + before + b")" + re.escape(struct.pack("<I", PHONE_CALL)), re.DOTALL)
    patched, count = pattern.subn(lambda match: match[1] + struct.pack("<I", MICROPHONE), manifest)
    if count != 1:
        raise OmniError(f"the binary manifest has {count} foreground services instead of one")
    return patched


def _resource_ids(data: bytes) -> list[int]:
    """Return the resource ids of the attribute names, in the order of the string pool."""
    offset = 8
    while offset < len(data):
        kind, head, size = struct.unpack_from("<HHI", data, offset)
        if kind == 0x0180:
            return list(struct.unpack_from(f"<{(size - head) // 4}I", data, offset + head))
        offset += size
    raise OmniError("the binary manifest has no resource ids")
