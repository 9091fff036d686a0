"""The data job that the project was asked for, on plain Spark: collapse white space, three filters, dropDuplicates.

    python benchmarks/peers/brief_glue_job.py INPUT_GLOB OUTPUT_FOLDER

The steps and limits are those of the request, made to run: the original never imports `re`, needs Glue, and reads a
column `meta` that this corpus has not.
"""

from __future__ import annotations

import re
import sys

from pyspark.sql import SparkSession
from pyspark.sql.functions import col, udf
from pyspark.sql.types import StringType


def clean_text(text: str | None) -> str | None:
    """White space collapsed; None for what is too short, too long, or (never, after collapsing) mostly line breaks."""
    if not text:
        return None
    text = re.sub(r"\s+", " ", text.strip())
    if not 50 <= len(text) <= 10_000 or text.count("\n") / len(text) > 0.1:
        return None
    return text


def main() -> None:
    source, target = sys.argv[1:]
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    rows = spark.read.json(source).select("text").filter(col("text").isNotNull())
    rows = rows.withColumn("cleaned_text", udf(clean_text, StringType())(col("text")))
    kept = rows.filter(col("cleaned_text").isNotNull()).dropDuplicates(["cleaned_text"])
    kept.write.mode("overwrite").parquet(target)
    spark.stop()


if __name__ == "__main__":
    main()
