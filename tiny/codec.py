"""Stage 2: the code book, 1024 pairs of mel frames, found by k-means on Joe's speech.

    python -m tiny.codec

There is no learned encoder. A code is the index of the nearest pair, at 50 codes/s. Ada's codes
are Joe's, because her speech equals his frame by frame. The book is committed
(codebook.safetensors). A new book would invalidate every trained Talker and DiT.
"""

from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file

from tiny import mel, sizes
from tiny.paths import HERE, WORK, Corpus
from tiny.speech import SPEECH

BOOK = HERE / "codebook.safetensors"
ENCODED = WORK / "encoded.pt"
ROUNDS = 40


def pairs(mels: torch.Tensor) -> torch.Tensor:
    """Reshape (frames, 80) to (frames // 2, 160)."""
    even = len(mels) // 2 * 2
    return mels[:even].reshape(-1, 2 * mel.BINS)


def nearest(vectors: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    """Return the closest entries, by |v - b|^2 = |v|^2 - 2 v.b + |b|^2 without the constant."""
    return (0.5 * (book**2).sum(1) - vectors @ book.T).argmin(1)


def cluster(vectors: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    """Run Lloyd's iterations; an entry without members restarts on a random vector."""
    rng = torch.Generator().manual_seed(seed)
    book = vectors[torch.randperm(len(vectors), generator=rng)[:count]].clone()
    for _ in range(ROUNDS):
        owner = nearest(vectors, book)
        sizes_ = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(book).index_add_(0, owner, vectors)
        book = sums / sizes_.clamp(min=1).unsqueeze(1)
        empty = torch.nonzero(sizes_ == 0).ravel()
        book[empty] = vectors[torch.randint(len(vectors), (len(empty),), generator=rng)]
    return book


def load_book() -> torch.Tensor:
    return load_file(BOOK)["entries"].float()


@dataclass(frozen=True)
class Sentence:
    """One sentence by one speaker: codes (n,) from 1 to 1024, mels (2 n, 80) in 16 bits."""

    text: str
    voice: str
    held_out: bool
    codes: torch.Tensor
    mels: torch.Tensor


def encoded() -> list[Sentence]:
    rows = torch.load(ENCODED, weights_only=True)
    return [Sentence(**row) for row in rows]


def main() -> None:
    torch.set_num_threads(1)
    corpus = Corpus(SPEECH)
    mels = [mel.log_mel(torch.from_numpy(samples)) for _, samples in corpus]
    if not BOOK.exists():
        chosen = [
            pairs(m)
            for item, m in zip(corpus.utterances, mels, strict=True)
            if item.voice == "Joe" and not item.held_out
        ]
        vectors = torch.cat(chosen)
        keep = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))[:200_000]
        save_file({"entries": cluster(vectors[keep], sizes.CODES).half()}, BOOK)
    book = load_book()
    rows: list[dict[str, object]] = []
    codes: dict[str, torch.Tensor] = {}
    for item, m in zip(corpus.utterances, mels, strict=True):
        if item.voice == "Joe":
            codes[item.text] = nearest(pairs(m), book) + 1
        own = codes[item.text]
        row = {"text": item.text, "voice": item.voice, "held_out": item.held_out}
        rows.append({**row, "codes": own.short(), "mels": m[: 2 * len(own)].half()})
    torch.save(rows, ENCODED)
    counts = torch.bincount(torch.cat(list(codes.values())), minlength=sizes.CODES + 1)[1:]
    share = counts / counts.sum()
    entropy = -(share * (share + 1e-12).log2()).sum()
    print(f"{len(rows)} sentences, {int((counts > 0).sum())} codes used, {entropy:.2f} bits/code")  # noqa: T201


if __name__ == "__main__":
    main()
