"""The edges to this machine and to AWS: the only place for boto3 and subprocesses."""
