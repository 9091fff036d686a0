"""An AWS account as this project uses it: what has to be there, what was made, what is left. Pure; `cloud` asks AWS."""
