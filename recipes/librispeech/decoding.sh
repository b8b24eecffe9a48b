#!/usr/bin/env bash
# Compare greedy, beam, beam + LM, and beam + LM + lexicon. Weights are tuned on half of the speakers and measured on the
# other half, in turn.
#   recipes/librispeech/decoding.sh MODEL DEVELOPMENT_SET LM_TEXT [OUT]
set -euo pipefail
model=$1 manifest=$2/manifest.jsonl text=$3 out=${4:-exp/decoding}
mkdir -p "$out/a" "$out/b"

[ -e "$out/lm.bin" ] || asr lm train "$text" --order 3 --prune 0 0 1 --vocab 200000 --out "$out/lm.bin"
[ -e "$out/words.txt" ] || python - "$out/lm.bin" > "$out/words.txt.part" <<'PYTHON'
import sys
from pathlib import Path
from asr.lm.ngram import NgramLM
print("\n".join(NgramLM.load(Path(sys.argv[1])).words()[3:]))
PYTHON
[ -e "$out/words.txt" ] || mv "$out/words.txt.part" "$out/words.txt"
python - "$manifest" "$out" <<'PYTHON'
import sys
from pathlib import Path
from asr import manifest
utterances = manifest.read(Path(sys.argv[1]))
speakers = sorted({u.speaker for u in utterances})
for half, some in (("a", speakers[::2]), ("b", speakers[1::2])):
    manifest.write(Path(sys.argv[2], half, "manifest.jsonl"), [u for u in utterances if u.speaker in some])
PYTHON

measure() {  # SYSTEM BUNDLE HALF [FLAG...]
    asr evaluate "$2" "$out/$3" "${@:4}" --json > "$out/$1-$3.json"
}
for half in a b; do
    other=$([ $half = a ] && echo b || echo a)
    measure greedy "$model" $half --greedy
    measure beam "$model" $half --beam 50
    for system in lm lexicon; do
        bundle=$out/bundle-$system-$half
        rm -rf "$bundle" && cp -r "$model" "$bundle"
        lexicon=()
        [ $system = lm ] || lexicon=(--lexicon "$out/words.txt")
        asr tune "$bundle" "$out/$other" --lm "$out/lm.bin" "${lexicon[@]}" --beam 100 | tee "$out/tune-$system-$half.txt"
        measure $system "$bundle" $half
    done
done
python - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
for system in ("greedy", "beam", "lm", "lexicon"):
    halves = [json.loads(Path(sys.argv[1], f"{system}-{half}.json").read_text()) for half in "ab"]
    rates = [sum(h[key]["errors"] for h in halves) / sum(h[key]["length"] for h in halves) for key in ("wer", "cer")]
    factor = sum(h["processing_seconds"] for h in halves) / sum(h["audio_seconds"] for h in halves)
    print(f"{system:8} WER {100 * rates[0]:.2f} %, CER {100 * rates[1]:.2f} %, real-time factor {factor:.4f}")
PYTHON
