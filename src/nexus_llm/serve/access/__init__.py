"""Who may use the gateway, how much, and what it cost: API keys, exact limits, budgets and usage, in one database."""
