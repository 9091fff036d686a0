"""Personal data and secrets in texts, found and replaced: of data before training, and of samples while serving."""
