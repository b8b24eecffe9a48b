"""Compilation of all inner loops ahead of their first use."""

import tempfile
from pathlib import Path

import numpy as np

from asr.decoding import kernel
from asr.decoding.beam import BeamDecoder, DecodingOptions
from asr.decoding.hotwords import Hotword
from asr.decoding.stream import LOOK_BACK, AlignedBeamSearch, GreedySearch, Search, Stream
from asr.errors import AsrError
from asr.inference.transcriber import load_model
from asr.jit import KERNELS
from asr.jit_cache import writable_folder
from asr.lm import arpa, estimate, packed
from asr.lm.ngram import NgramLM
from asr.lm.perplexity import perplexity
from asr.text import ENGLISH, Tokenizer


def compile_all() -> Path:
    """Use every compiled function once; return the folder of the search's code.

    Raises AsrError if it cannot be written.
    """
    folder = writable_folder(kernel.__file__)
    if folder is not None:
        with tempfile.TemporaryDirectory() as name:
            lm = _use_language_models(Path(name))
        _use_decoders(lm)
    if folder is None or not all(k.dispatcher._cache.kept for k in KERNELS if k.dispatcher.signatures):
        raise AsrError(f"{folder or 'compiled code'}: cannot be written; name a folder in NUMBA_CACHE_DIR")
    return folder


def _use_language_models(folder: Path) -> NgramLM:
    """Estimate, prune, save and load a small model in `folder`, also as ARPA; return it."""
    (folder / "text").write_text("IT IS SO\nSO IT IS\nIT WAS SO\n" * 3 + "IS IT\n", encoding="utf-8")
    lm = estimate.train([folder / "text"], estimate.LmOptions(cutoffs=(0, 0, 1), entropy=1e-8)).lm
    run = np.arange(3, dtype=np.uint64), np.ones(3, np.uint32)
    estimate._merged(run, run, None)  # which only texts beyond a block need
    lm.save(folder / "lm")
    packed.save(lm, folder / "packed")
    arpa.write_arpa(lm, folder / "arpa")
    loaded = [packed.load(folder / name) for name in ("packed", "lm")]
    for model in (arpa.read_arpa(folder / "arpa"), *loaded):
        perplexity(model, [folder / "text"])
        model.score(["IT", "IS"])
        estimate.prune(model, 1e-8)
    return model


def _use_decoders(lm: NgramLM) -> None:
    """Decode noise with the built-in model and with models of characters, and align it."""
    decoder, characters = load_model(threads=1).decoder, Tokenizer(ENGLISH)
    searches: list[Search] = [GreedySearch(characters)]
    for given in (None, lm):
        beam = BeamDecoder(characters, given, None).search(DecodingOptions(beam=4))
        searches.append(AlignedBeamSearch(beam, characters.separator))
    for search in searches:
        _feed(Stream(search, characters, decoder.frame_seconds, 1.0), characters)
    for stream in (decoder.stream(), decoder.stream([Hotword("IT IS")], n_best=2)):
        _feed(stream, decoder.tokenizer)
    live, noise = decoder.live((), age=10, hold=5), _noise(decoder.tokenizer)
    live.feed(noise[:100])
    live.update(noise[100:120])
    decoder.time(_noise(decoder.tokenizer), decoder.spell("IT IS SO"))


def _feed(stream: Stream, tokenizer: Tokenizer) -> None:
    stream.feed(_noise(tokenizer))
    stream.finish()


def _noise(tokenizer: Tokenizer) -> np.ndarray:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(tokenizer.size), LOOK_BACK + 100)
    return np.log(probabilities).astype(np.float32)
