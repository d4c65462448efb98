"""Assemble, align and sign the APK. The same sources and key give the same bytes."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from omni_runtime.checksums import sha256_of
from omni_runtime.errors import OmniError
from toolchain.dexing import dex
from toolchain.kernels import kernels
from toolchain.parts import CACHE, cached, part
from toolchain.process import find, run
from toolchain.project import ROOT, app_jars
from toolchain.resources import build_resources, set_microphone

ABI = "arm64-v8a"
LIBRARIES = ("libonnxruntime.so", "libonnxruntime4j_jni.so")
VOICE_ACTIVITY = ROOT.parent / "runtime/omni_runtime/voice/silero/silero_vad_16k_sequence.onnx"
PASSWORD = "pass:android"  # noqa: S105 - the debug key is no secret
STORED = ("resources.arsc",)
"""Android maps this file into memory, so it must not be compressed."""


def build_apk(bundle: Path, output: Path, libraries: Sequence[Path] = ()) -> None:
    """Build the signed APK with a bundle inside. `libraries` are more native libraries for arm64.

    Raises OmniError.
    """
    assets = dict(_assets(bundle))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        resources, resource_classes = build_resources(folder)
        entries = _resource_entries(resources)
        for number, data in enumerate(dex(app_jars(resource_classes))):
            entries[f"classes{number + 1 if number else ''}.dex"] = data
        native = part("onnxruntime") / "jni" / ABI
        for library in [*(native / name for name in LIBRARIES), kernels(), *libraries]:
            entries[f"lib/{ABI}/{library.name}"] = library.read_bytes()
        unsigned, aligned = folder / "unsigned.apk", folder / "aligned.apk"
        _write_zip(unsigned, {**entries, **assets})
        run([find("zipalign", "zipalign"), "-f", "4", unsigned, aligned])
        _sign(aligned)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(aligned, output)


def _assets(bundle: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of the default bundle and the voice activity model."""
    if not (bundle / "manifest.json").is_file():
        raise OmniError(
            f"{bundle} is not a bundle",
            fix="python export/run.py --quant int4, or --bundle FOLDER",
        )
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            yield f"assets/bundle/{path.relative_to(bundle).as_posix()}", path.read_bytes()
    yield f"assets/{VOICE_ACTIVITY.name}", VOICE_ACTIVITY.read_bytes()


def _resource_entries(resources: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(resources) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = "AndroidManifest.xml"
    return {**entries, manifest: set_microphone(entries[manifest])}


def _write_zip(path: Path, entries: Mapping[str, bytes]) -> None:
    """Write entries in a fixed order with the zip format's first time stamp."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(entries):
            kind = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), entries[name], kind)


def debug_key() -> Path:
    """Return the key store of the debug key, which is made on first use and kept in the cache."""

    def make(new: Path) -> None:
        options = {
            "-keystore": new / "debug.p12",
            "-storetype": "PKCS12",
            "-storepass": PASSWORD.removeprefix("pass:"),
            "-alias": "debug",
            "-keyalg": "RSA",
            "-keysize": "2048",
            "-validity": "10000",
            "-dname": "CN=Pocket Omni Debug",
        }
        words = [word for pair in options.items() for word in pair]
        run([find("keytool", "openjdk-17-jdk-headless"), "-genkeypair", *words])

    return cached(CACHE / "debug-key", make) / "debug.p12"


def _sign(apk: Path) -> None:
    """Sign with schemes 2 and 3. Scheme 1 is for phones older than the minimum."""
    key = ["--ks", debug_key(), "--ks-pass", PASSWORD, "--ks-key-alias", "debug"]
    schemes = [f"--v{number}-signing-enabled={str(number > 1).lower()}" for number in (1, 2, 3)]
    signer = find("apksigner", "apksigner")
    run([signer, "sign", *key, *schemes, "--v4-signing-enabled=false", apk])


def check_apk(apk: Path) -> str:
    """Check alignment and signature, and return the SHA-256 of the APK. Raises OmniError."""
    run([find("zipalign", "zipalign"), "-c", "4", apk])
    run([find("apksigner", "apksigner"), "verify", "--min-sdk-version=29", apk])
    return sha256_of(apk)
