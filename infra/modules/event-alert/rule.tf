# An event of one service that becomes a message: for what has a state and no metric.

resource "aws_cloudwatch_event_rule" "this" {
  name          = var.name
  description   = var.description
  event_pattern = var.pattern
}

resource "aws_cloudwatch_event_target" "this" {
  rule      = aws_cloudwatch_event_rule.this.name
  target_id = "alerts"
  arn       = var.topic_arn
}
