#!/usr/bin/env bash
# Phones, characters or pieces of words: the same short training of each from the weights that ship, whose layers
# were trained on phones, and the word error rate with the language model that ships, tuned on the set it is
# measured on.
#   recipes/librispeech/units.sh TRAINING_SET DEVELOPMENT_SET LEXICON [OUT]
#   STEPS=400 PIECES=200 TRAIN_FLAGS="--trainer.accelerator=cpu --data.batch_seconds=60" OMP_NUM_THREADS=1 ...
# LEXICON spells the words of both sets in phones. What is in OUT is not made again.
set -euo pipefail
train=$1 dev=$2 lexicon=$3 out=${4:-exp/units}
here=$(dirname "$0") pieces=${PIECES:-200}
box=$(python -c 'from asr.model.bundle import locate; print(locate("box"))')
mkdir -p "$out"

subwords() {  # OUT WORDS...
    [ -e "$1/lexicon.txt" ] ||
        python -m recipes.librispeech.subwords --size "$pieces" --train "$train" --words "${@:2}" --out "$1"
}
subwords "$out/pieces" "$train" "$dev"
subwords "$out/pieces-lm" "$box/lm.bin"
cut -f 1 "$box/lexicon.txt" | uniq > "$out/words.txt"

row() {  # NAME LEXICON [FLAGS]
    folder=$out/$1
    # shellcheck disable=SC2086  # several flags
    [ -e "$folder/bundle" ] || asr train "$here/box.yaml" --resume=auto --trainer.default_root_dir="$folder" \
        --data.train="[$train]" --data.validation="[$dev]" --trainer.max_epochs=-1 --trainer.max_steps="${STEPS:-400}" \
        --trainer.val_check_interval="${STEPS:-400}" --trainer.check_val_every_n_epoch=null --model.cmn=true \
        --model.init=box --model.learning_rate=1e-3 --model.warmup_steps=50 --model.consistency=0 --ema.decay=0.99 \
        ${TRAIN_FLAGS:-} "${@:3}" > "$folder.log" 2>&1 || { tail -n 1 "$folder.log" >&2; exit 1; }
    rm -rf "$folder/tuned" && cp -r "$folder/bundle" "$folder/tuned"
    echo "== $1"
    python -c 'import json, sys; print("greedy, as trained:", json.load(open(sys.argv[1]))["wer"])' "$folder/bundle/config.json"
    asr tune "$folder/tuned" "$dev" --lm "$box/lm.bin" --lexicon "$2" --beam 100 --token-top-k 20
    asr evaluate "$folder/tuned" "$dev"
}
row phones "$box/lexicon.txt" --data.lexicon="$lexicon"
row characters "$out/words.txt" --data.lexicon=null --data.units=" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
row pieces "$out/pieces-lm/lexicon.txt" --config "$out/pieces/units.yaml"
