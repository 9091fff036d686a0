"""What a server tells of its requests: the access log, spans, CloudWatch metrics, and samples where they are wanted.

One `RequestRecord` a request holds what may be told. It has no room for a prompt or an answer; only samples, which are
off unless a recipe asks for them, ever hold content.
"""
