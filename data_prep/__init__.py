"""Corpora and other training data for `asr`.

`asr prepare NAME` imports `data_prep.NAME` (hyphens become underscores), fills its `Options`, a frozen
dataclass, from the command line and calls `prepare(options)`, which returns what it could not use. A new
corpus is one such module and one line here.
"""

CORPORA = {
    "librispeech": "Prepare LibriSpeech or Mini LibriSpeech, downloaded or local",
    "folder": "Prepare your own recordings",
    "digits": "Prepare synthetic spoken digits, which ship with asr",
    "lexicon": "Write the pronunciations of words, for models of phones",
    "lm-text": "Write language-model text without lines from the evaluation set",
}
"""One-line help for each name."""
