"""The page at `/`: chat, comparison, live metrics and cost in one document that needs nothing from elsewhere."""
