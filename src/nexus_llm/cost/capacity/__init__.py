"""How many requests one replica carries, and how they feel: step times, arrivals, a simulated scheduler, autoscaling."""
