#!/usr/bin/env bash
# Ablation of box.yaml: short trainings from scratch with one change each, greedy phone error rate on the development set.
# Short trainings favour small models and weak masks. All rows but CR-CTC use one view of each utterance, to save time.
# Last run with the LSTM of 28 November 2026 (LOG.md); not run with the present box.yaml.
#   recipes/librispeech/ablation.sh TRAINING_SET DEVELOPMENT_SET LEXICON [OUT]
#   STEPS=800 JOBS=2 TRAIN_FLAGS="--trainer.accelerator=cpu --trainer.precision=32-true --data.batch_seconds=60
#     --model.optimizer.warmup_steps=100" OMP_NUM_THREADS=1 ...
# A row that is in OUT is not run again, one that was cut off goes on: name another OUT for other settings.
set -euo pipefail
train=$1 dev=$2 lexicon=$3 out=${4:-exp/ablation}
here=$(dirname "$0")
mkdir -p "$out"

rows="\
one view|
no speed perturbation|--data.speeds=[1.0]
two views (CR-CTC)|--model.consistency=0.2
2 layers|--model.architecture.layers=2
half the time masks|--model.augmentation.spec_augment.time_masks=5
twice the time masks|--model.augmentation.spec_augment.time_masks=20
no noise|--model.augmentation.noise.share=0
no average of weights|--ema.decay=0
4 layers|--model.architecture.layers=4
384 units|--model.architecture.hidden=384
LSTM|--model.architecture.cell=lstm"

run() {  # NAME|FLAGS
    folder="$out/$(tr -c 'a-z0-9\n' _ <<< "${1%%|*}")"
    [ -e "$folder/bundle" ] && return
    # shellcheck disable=SC2086  # several flags
    asr train "$here/box.yaml" --resume=auto --trainer.default_root_dir="$folder" --data.train="[$train]" \
        --data.validation="[$dev]" --data.lexicon="$lexicon" --trainer.max_epochs=-1 \
        --trainer.max_steps="${STEPS:-2400}" --trainer.val_check_interval="${STEPS:-2400}" \
        --trainer.check_val_every_n_epoch=null --model.consistency=0 ${TRAIN_FLAGS:-} ${1#*|} > "$folder.log" 2>&1 ||
        { tail -n 1 "$folder.log" >&2; return 1; }
}
export -f run
export out here train dev lexicon
tr '\n' '\0' <<< "$rows" | xargs -0 -P "${JOBS:-1}" -I{} bash -c 'run "$1"' _ {} || failed=1

python - "$out" "$rows" <<'PYTHON'
import json, re, sys
from pathlib import Path
for row in sys.argv[2].splitlines():
    name = row.split("|")[0]
    path = Path(sys.argv[1]) / re.sub("[^a-z0-9]", "_", name) / "bundle" / "config.json"
    rates = json.loads(path.read_text())["wer"].values() if path.exists() else []
    print(f"{name:28}", *(f"{100 * rate:.2f} %" for rate in rates))
PYTHON
exit ${failed:-0}
