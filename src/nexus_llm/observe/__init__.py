"""What is looked at while a model is in service: metrics that exist, alarms that fire, objectives, drift. Pure."""
