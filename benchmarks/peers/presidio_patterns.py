"""Presidio's pattern recognisers over texts: what they find, and the CPU seconds they take. No spaCy model is needed.

    PYTHON_WITH_PRESIDIO benchmarks/peers/presidio_patterns.py < texts.json > findings.json

In: a JSON list of texts. Out: {"version", "seconds": {entity: CPU seconds}, "found": {entity: [[text, start, end,
score]]}}, places in characters.
Without a language model Presidio's context words do not raise scores; check digits do.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import time

import tldextract

# Its own copy of the public suffix list: the newest would be fetched over the network.
tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())

from presidio_analyzer import predefined_recognizers as recognizers  # noqa: E402 - after the list is set

RECOGNIZERS = {
    "EMAIL_ADDRESS": recognizers.EmailRecognizer,
    "PHONE_NUMBER": recognizers.PhoneRecognizer,
    "CREDIT_CARD": recognizers.CreditCardRecognizer,
    "IBAN_CODE": recognizers.IbanRecognizer,
    "US_SSN": recognizers.UsSsnRecognizer,
    "IP_ADDRESS": recognizers.IpRecognizer,
}


def main() -> None:
    """Runs each recogniser over all texts."""
    logging.disable(logging.WARNING)
    texts = json.load(sys.stdin)
    seconds, found = {}, {}
    for entity, kind in RECOGNIZERS.items():
        recognizer = kind()
        started = time.process_time()
        results = [recognizer.analyze(text, [entity], None) or [] for text in texts]
        seconds[entity] = time.process_time() - started
        found[entity] = [[number, one.start, one.end, one.score] for number, some in enumerate(results) for one in some]
    version = importlib.metadata.version("presidio-analyzer")
    json.dump({"version": version, "seconds": seconds, "found": found}, sys.stdout)


if __name__ == "__main__":
    main()
