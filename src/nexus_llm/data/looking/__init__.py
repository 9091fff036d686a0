"""Looking into a finished data artifact: one record, the report, what to erase."""
