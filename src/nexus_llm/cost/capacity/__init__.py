"""How many requests a replica carries and how they feel: step times, arrivals, a simulated scheduler, autoscaling."""
